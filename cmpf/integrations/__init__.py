# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF inside other people's programs; each module asks for its host when it is used."""

from cmpf.integrations.labeler import Labeler as Labeler
