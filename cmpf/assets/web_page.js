// Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
// The result panel of `cmpf serve`: opacity, labels under the pointer, downloads. All of it happens in the browser.
// Listeners stand on the document, because Gradio replaces the panel with every result.
(() => {
  const idMaps = new WeakMap(); // panel -> {width, height, data: RGBA bytes}, read once

  function idMap(panel) {
    if (!idMaps.has(panel)) {
      const image = panel.querySelector(".cmpf-ids");
      if (!image.complete || !image.naturalWidth) return null;
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      idMaps.set(panel, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return idMaps.get(panel);
  }

  const idAt = (data, i) => data[i] + 256 * data[i + 1] + 65536 * data[i + 2];

  function spotlight(panel, id) {
    if (panel.dataset.lit === String(id)) return;
    panel.dataset.lit = id;
    for (const row of panel.querySelectorAll("tr[data-id]")) {
      row.classList.toggle("cmpf-lit", row.dataset.id === String(id));
    }
    const canvas = panel.querySelector(".cmpf-spot"), map = idMap(panel);
    canvas.classList.toggle("cmpf-on", id > 0);
    if (!map || id <= 0) return;
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d"), shade = context.createImageData(map.width, map.height);
    for (let i = 0; i < map.data.length; i += 4) shade.data[i + 3] = idAt(map.data, i) === id ? 0 : 150;
    context.putImageData(shade, 0, 0);
  }

  function hideTip(panel) {
    panel.querySelector(".cmpf-tip").hidden = true;
    spotlight(panel, 0);
  }

  document.addEventListener("pointermove", (event) => {
    const view = event.target.closest?.(".cmpf-view");
    if (!view) return;
    const panel = view.closest(".cmpf-result"), map = idMap(panel), box = view.getBoundingClientRect();
    if (!map) return;
    const x = Math.min(map.width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * map.width)));
    const y = Math.min(map.height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * map.height)));
    const id = idAt(map.data, 4 * (y * map.width + x));
    const row = panel.querySelector(`tr[data-id="${id}"]`), tip = panel.querySelector(".cmpf-tip");
    if (!row) return hideTip(panel);
    tip.textContent = row.dataset.tip;
    tip.hidden = false;
    const left = event.clientX - box.left, flip = left > box.width / 2;
    tip.style.left = `${left}px`;
    tip.style.top = `${event.clientY - box.top}px`;
    tip.style.transform = flip ? "translate(calc(-100% - 14px), -50%)" : "translate(14px, -50%)";
    spotlight(panel, id);
  });

  document.addEventListener("pointerout", (event) => {
    const view = event.target.closest?.(".cmpf-view");
    if (view && !view.contains(event.relatedTarget)) hideTip(view.closest(".cmpf-result"));
  });

  for (const [enter, leave] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    document.addEventListener(enter, (event) => {
      const row = event.target.closest?.("tr[data-id]");
      if (row) spotlight(row.closest(".cmpf-result"), Number(row.dataset.id));
    });
    document.addEventListener(leave, (event) => {
      const row = event.target.closest?.("tr[data-id]");
      if (row) spotlight(row.closest(".cmpf-result"), 0);
    });
  }

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.(".cmpf-opacity")) return;
    const panel = event.target.closest(".cmpf-result");
    panel.style.setProperty("--cmpf-opacity", event.target.value / 100);
    event.target.nextElementSibling.textContent = `${event.target.value}%`;
  });

  function download(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function blended(panel) {
    const clear = panel.querySelector(".cmpf-clear"), canvas = document.createElement("canvas");
    canvas.width = clear.naturalWidth;
    canvas.height = clear.naturalHeight;
    const context = canvas.getContext("2d"), opacity = panel.querySelector(".cmpf-opacity").value / 100;
    context.filter = `grayscale(${opacity})`; // as in web_page.css
    context.drawImage(clear, 0, 0);
    context.filter = "none";
    context.globalAlpha = opacity;
    context.drawImage(panel.querySelector(".cmpf-tinted"), 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  // On a phone the result lies below the window, and nothing would seem to happen: go there as soon as it is asked for,
  // and again when it is there.
  function show(panel) {
    const box = panel.getBoundingClientRect(), calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (box.top >= 0 && box.top < innerHeight * 0.6) return;
    panel.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#cmpf-segment, #cmpf-segment-all")) show(document.querySelector("#cmpf-panel"));
  });

  // Pressing a button outside the words makes what is typed there a word: on a narrow screen the box of words grows by a
  // line, the button moves from under the finger, and the browser gives it no click.
  let pressed = null;
  document.addEventListener("mousedown", (event) => {
    const button = event.target.closest?.("#cmpf-segment, #cmpf-segment-all");
    pressed = button && { button, x: event.clientX, y: event.clientY };
  }, true);
  document.addEventListener("mouseup", (event) => {
    const here = pressed;
    pressed = null;
    if (!here || here.button.contains(event.target)) return; // its own click comes
    if (Math.hypot(event.clientX - here.x, event.clientY - here.y) < 10) setTimeout(() => here.button.click(), 100);
  }, true);

  const ADD = "#cmpf-files .icon-button:has(input[type='file'])"; // adds images to those that were chosen

  document.addEventListener("click", (event) => {
    if (!event.target.matches?.("input")) event.target.closest?.(ADD)?.querySelector("input").click();
  });

  // Once there is a result, another least score gives another one without a further click.
  document.addEventListener("change", (event) => {
    if (!event.target.closest?.("#cmpf-score") || !document.querySelector("#cmpf-panel .cmpf-result")) return;
    setTimeout(() => document.querySelector("#cmpf-segment").click(), 100); // Gradio reads the value first
  });

  let shown = null;
  new MutationObserver(() => {
    const result = document.querySelector("#cmpf-panel :is(.cmpf-result, .cmpf-batch, .cmpf-error)");
    if (result && result !== shown) show(document.querySelector("#cmpf-panel"));
    shown = result;
    // Gradio gives its thumbnails no names.
    document.querySelectorAll("#cmpf-examples button.gallery-item:not([aria-label])").forEach((button) => {
      const place = [...button.parentElement.children].indexOf(button) + 1;
      button.setAttribute("aria-label", `Example ${place}: use this image and its classes`);
    });
    const adding = document.querySelector(ADD);
    if (adding && adding.title !== "Add images") {
      adding.title = "Add images";
      adding.setAttribute("aria-label", "Add images");
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  document.addEventListener("click", async (event) => {
    const kind = event.target.closest?.("button[data-save]")?.dataset.save;
    if (!kind) return;
    const panel = event.target.closest(".cmpf-result"), name = panel.dataset.name;
    if (kind === "image") download(await blended(panel), `${name}_segments.png`);
    if (kind === "coco") {
      const text = panel.querySelector(".cmpf-coco").textContent;
      download(new Blob([text], { type: "application/json" }), `${name}_coco.json`);
    }
    if (kind === "ids") download(await (await fetch(panel.querySelector(".cmpf-ids").src)).blob(), `${name}_ids.png`);
  });
})();
