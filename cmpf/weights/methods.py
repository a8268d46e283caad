# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published methods whose trained weights the zoo knows: who made each, and how it is cited."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A published method.

    Args:
        title: its usual name. adds: what it is, or adds to FC-CLIP, in a few words.
        page: the authors' page. citation: BibTeX.
    """

    title: str
    adds: str
    page: str
    citation: str


_CMPF = """@article{cmpf2026,
  title   = {{CMPF}},
  journal = {International Journal of Computer Vision},
  volume  = {134},
  number  = {6},
  pages   = {296},
  year    = {2026},
  note    = {full title and authors: see the journal}
}
@article{chen2024frozenseg,
  title   = {{FrozenSeg}: Harmonizing Frozen Foundation Models for Open-Vocabulary Segmentation},
  author  = {Chen, Xi and Yang, Haosen and Jin, Sheng and Zhu, Xiatian and Yao, Hongxun},
  journal = {arXiv preprint arXiv:2409.03525},
  year    = {2024}
}"""
_FCCLIP = """@inproceedings{yu2023fcclip,
  title     = {Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional {CLIP}},
  author    = {Yu, Qihang and He, Ju and Deng, Xueqing and Shen, Xiaohui and Chen, Liang-Chieh},
  booktitle = {NeurIPS},
  year      = {2023},
  note      = {arXiv:2308.02487}
}"""
_COCONUT = """@inproceedings{deng2024coconut,
  title     = {{COCONut}: Modernizing {COCO} Segmentation},
  author    = {Deng, Xueqing and Yu, Qihang and Wang, Peng and Shen, Xiaohui and Chen, Liang-Chieh},
  booktitle = {CVPR},
  year      = {2024}
}"""
_MASK_ADAPTER = """@inproceedings{li2025maskadapter,
  title     = {{Mask-Adapter}: The Devil is in the Masks for Open-Vocabulary Segmentation},
  author    = {Li, Yongkang and Cheng, Tianheng and Feng, Bin and Liu, Wenyu and Wang, Xinggang},
  booktitle = {CVPR},
  year      = {2025}
}"""
_MAFTP = """@inproceedings{jiao2024maftplus,
  title     = {Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation},
  author    = {Jiao, Siyu and Zhu, Hongguang and Huang, Jiannan and Zhao, Yao and Wei, Yunchao and Shi, Humphrey},
  booktitle = {ECCV},
  year      = {2024}
}"""
_OVRCOAT = """@inproceedings{ovrcoat2026,
  title     = {{OVRCOAT}},
  booktitle = {CVPR},
  year      = {2026},
  note      = {arXiv:2603.21386; full title and authors: see there}
}"""

METHODS = {
    "cmpf": Method(
        "CMPF",
        "FrozenSeg: two injectors and an ensemble bring in SAM's sense of where things end",
        "https://github.com/chenxi52/CMPF",
        _CMPF,
    ),
    "fcclip": Method(
        "FC-CLIP",
        "the base of the others: one frozen CLIP, and a decoder",
        "https://github.com/bytedance/fc-clip",
        _FCCLIP,
    ),
    "fcclip_coconut": Method(
        "FC-CLIP",
        "trained on COCO with the better labels of COCONut",
        "https://github.com/bytedance/coconut_cvpr2024",
        f"{_FCCLIP}\n{_COCONUT}",
    ),
    "mask_adapter": Method(
        "Mask-Adapter",
        "learned pooling maps instead of the mean inside a mask",
        "https://github.com/hustvl/MaskAdapter",
        f"{_MASK_ADAPTER}\n{_FCCLIP}",
    ),
    "maftp": Method(
        "MAFT+",
        "a tuned CLIP, and text that looks at the image",
        "https://github.com/jiaosiyu1999/MAFT-Plus",
        _MAFTP,
    ),
    "ovrcoat": Method(
        "OVRCOAT",
        "a tuned CLIP, whose certainty of a mask speaks against void",
        "https://github.com/nickormushev/OVRCOAT",
        f"{_OVRCOAT}\n{_FCCLIP}",
    ),
}
