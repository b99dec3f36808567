"use strict";
// The slice viewer: layers of one volume, decoded as they are needed, laid over each other in a canvas.

const AXES = ["z", "y", "x"];
const [OTHERS, NOT_JUDGED] = [254, 255];
const [FOUND, INVENTED, MISSED] = [1, 2, 3];
const PICTURES = ["image", "probability"];
const LAYER_COLORS = { prediction: [240, 150, 20], label: [50, 150, 255] };
const ERROR_COLORS = { [FOUND]: [64, 217, 115], [INVENTED]: [255, 140, 0], [MISSED]: [20, 150, 255] };
const KIND_COLORS = { merged: "#ff5ad0", split: "#c9a0ff", tunnel: "#ffe14a", component: "#5af0ff", cavity: "#ff6a5a" };
const SHEET_COLORS = Array.from({ length: 256 }, (_, k) => sheetColor(k));

function sheetColor(number) {
  if (number === OTHERS) return [190, 190, 190];
  if (number === NOT_JUDGED) return [110, 110, 110];
  // Hues by the golden angle: neighbours in number are far apart in colour.
  const hue = (number * 137.508 + 190) % 360;
  const light = 0.56 + 0.1 * ((number % 3) - 1);
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.85 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

async function inflate(id) {
  const bytes = decodeBase64(document.getElementById(id).textContent.trim());
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Volume {
  constructor(number, facts) {
    this.number = number;
    this.facts = facts;
    this.shape = facts.shape;
    this.arrays = {};
    this.waiting = {};
    this.planes = {};
    this.missing = {};
  }

  // Sheets of one side that merged (prediction) or were split (label).
  seamSheets(side) {
    const kind = side === "prediction" ? "merged" : "split";
    const other = side === "prediction" ? "split" : "merged";
    const seams = this.facts.seams || [];
    return new Set([...seams.filter((seam) => seam.kind === kind).map((seam) => seam.sheet), ...seams.filter((seam) => seam.kind === other).flatMap((seam) => seam.others)]);
  }

  // Make a layer ready for a slice: its one plane across z, all of them in the other directions.
  async prepare(layer, axis, place) {
    if (!PICTURES.includes(layer)) {
      this.waiting[layer] ??= inflate(`blob-${this.number}-${layer}`).then((bytes) => (this.arrays[layer] = bytes));
      return this.waiting[layer];
    }
    if (!this.planes[layer]) {
      this.planes[layer] = document.getElementById(`blob-${this.number}-${layer}`).textContent.trim().split("\n");
      this.arrays[layer] = new Uint8Array(this.shape[0] * this.shape[1] * this.shape[2]);
      this.missing[layer] = new Set(this.planes[layer].keys());
    }
    if (axis === 0) return this.decode(layer, place);
    while (this.missing[layer].size) await Promise.all([...this.missing[layer]].slice(0, 16).map((z) => this.decode(layer, z)));
  }

  async decode(layer, z) {
    if (!this.missing[layer].has(z)) return;
    const [, height, width] = this.shape;
    const bitmap = await createImageBitmap(new Blob([decodeBase64(this.planes[layer][z])], { type: "image/webp" }));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const pixels = context.getImageData(0, 0, width, height).data;
    const out = this.arrays[layer].subarray(z * height * width, (z + 1) * height * width);
    for (let k = 0; k < out.length; k++) out[k] = pixels[4 * k];
    this.missing[layer].delete(z);
  }

  // Offset and steps (row, column) of a slice in an array of the volume.
  strides(axis, place) {
    const [, n_y, n_x] = this.shape;
    if (axis === 0) return [place * n_y * n_x, n_x, 1];
    if (axis === 1) return [place * n_x, n_y * n_x, 1];
    return [place, n_y * n_x, n_x];
  }

  size(axis) {
    return axis === 0 ? [this.shape[1], this.shape[2]] : axis === 1 ? [this.shape[0], this.shape[2]] : [this.shape[0], this.shape[1]];
  }
}

// From a place (z, y, x) to (row, column) of a slice, and back.
const toSlice = (place, axis) => place.filter((_, k) => k !== axis);
function toPlace(row, column, axis, at) {
  const place = [row, column];
  place.splice(axis, 0, at);
  return place;
}

class Viewer {
  constructor(facts) {
    this.volumes = facts.map((each, number) => new Volume(number, each));
    this.layers = { image: [true, 1], probability: [false, 0.7], prediction: [false, 0.6], label: [false, 0.6], errors: [true, 0.75] };
    this.axis = 0;
    this.zoom = 1;
    this.chosen = null;
    this.listeners = [];
    this.canvas = document.getElementById("slice");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.slider = document.getElementById("position");
    this.connect();
    this.open(0);
  }

  connect() {
    const element = (id) => document.getElementById(id);
    element("volume").addEventListener("change", (event) => this.open(Number(event.target.value)));
    for (const radio of document.querySelectorAll("input[name=axis]")) radio.addEventListener("change", () => this.turn(Number(radio.value)));
    this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
    element("colours").addEventListener("change", () => this.refresh());
    element("show-marks").addEventListener("change", () => this.drawMarks());
    element("smaller").addEventListener("click", () => this.resize(this.zoom / 1.5));
    element("larger").addEventListener("click", () => this.resize(this.zoom * 1.5));
    document.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.fit()).observe(element("frame"));
    this.connectPointer(element("sheet"));
  }

  connectPointer(sheet) {
    let start = null;
    const frame = document.getElementById("frame");
    sheet.addEventListener("pointerdown", (event) => {
      start = { x: event.clientX, y: event.clientY, slice: this.position, left: frame.scrollLeft, top: frame.scrollTop, moved: false };
    });
    sheet.addEventListener("pointermove", (event) => {
      if (!start || !event.buttons) return;
      const [right, down] = [event.clientX - start.x, event.clientY - start.y];
      const isZoomed = this.zoom > 1;
      if (Math.max(Math.abs(right), isZoomed ? Math.abs(down) : 0) > 6 && !start.moved) {
        start.moved = true;
        sheet.setPointerCapture(event.pointerId);
      }
      if (!start.moved) return;
      // What is larger than its frame is moved in it, what is seen whole is paged through.
      if (isZoomed) frame.scrollTo({ left: start.left - right, top: start.top - down, behavior: "instant" });
      else this.move(start.slice - Math.round(right / 8));
    });
    sheet.addEventListener("pointerup", (event) => {
      if (start && !start.moved) this.probe(event);
      start = null;
    });
    sheet.addEventListener("pointercancel", () => (start = null));
  }

  press(event) {
    const inside = event.target.closest("#viewer, #errors");
    if ((event.target !== document.body && !inside) || event.ctrlKey || event.metaKey || event.altKey) return;
    // A slider, a list and a button have arrow keys of their own, and the slider's does the same.
    const own = event.target.matches("select, input[type=range], input[type=radio], summary, .wide");
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (event.key in steps) {
      if (own || event.target === document.body && event.key.startsWith("Page") || event.target === document.body && !/Left|Right/.test(event.key)) return;
      this.move(this.position + steps[event.key]);
    } else if (event.target.matches("select")) return;
    else if (AXES.includes(event.key)) this.turn(AXES.indexOf(event.key));
    else if (/^[1-5]$/.test(event.key)) this.toggle(Object.keys(this.layers)[event.key - 1]);
    else if (event.key === "n" || event.key === "p") this.step(event.key === "n" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  open(number) {
    this.volume = this.volumes[number];
    this.places = [...this.volume.facts.start];
    this.chosen = null;
    document.getElementById("volume").value = number;
    // Where nobody labelled there are no errors to show: the prediction takes their place.
    const has = (layer) => this.volume.facts.layers.includes(layer);
    if (!has("errors") && !this.layers.prediction[0] && !this.touched) this.layers.prediction[0] = true;
    if (!has("image") && !has("errors")) this.layers.prediction[0] = true;
    this.listLayers();
    for (const listener of this.listeners) listener(this.volume);
    this.turn(this.axis);
    this.prefetch();
  }

  // Pictures of the other slices, while nothing else is to do; the other directions need them all.
  async prefetch() {
    const volume = this.volume;
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 30));
    await this.drawn;
    for (const layer of PICTURES.filter((name) => volume.facts.layers.includes(name))) {
      await volume.prepare(layer, 0, this.places[0]);
      while (volume.missing[layer].size && volume === this.volume) {
        await new Promise((resolve) => idle(resolve));
        await Promise.all([...volume.missing[layer]].slice(0, 8).map((z) => volume.decode(layer, z)));
      }
    }
  }

  get position() {
    return this.places[this.axis];
  }

  turn(axis) {
    this.axis = axis;
    document.querySelector(`input[name=axis][value="${axis}"]`).checked = true;
    this.slider.max = this.volume.shape[axis] - 1;
    document.getElementById("slice-name").textContent = AXES[axis];
    this.fit();
    this.move(this.position);
  }

  move(position) {
    this.places[this.axis] = Math.min(Math.max(position, 0), this.volume.shape[this.axis] - 1);
    this.slider.value = this.position;
    document.getElementById("slice-number").textContent = `${this.position} of ${this.volume.shape[this.axis]}`;
    this.refresh();
  }

  toggle(layer) {
    const box = document.getElementById(`layer-${layer}`);
    if (box) box.click();
  }

  goTo(error) {
    this.chosen = error;
    this.places = [...error.place];
    this.turn(error.axis);
    this.tell(error.place, nameError(error));
    for (const listener of this.listeners) listener(this.volume, error);
    this.center(error);
  }

  step(direction) {
    const errors = listErrors(this.volume.facts);
    if (!errors.length) return;
    const at = errors.indexOf(this.chosen);
    this.goTo(errors[(at + direction + errors.length + (at < 0 && direction < 0 ? 1 : 0)) % errors.length]);
  }

  resize(zoom) {
    this.zoom = Math.min(Math.max(zoom, 1), 8);
    this.fit();
    if (this.chosen) this.center(this.chosen);
  }

  fit() {
    const frame = document.getElementById("frame");
    const [rows, columns] = this.volume.size(this.axis);
    // Heading, slider and what is told of a place stay in sight.
    const height = Math.max(window.innerHeight - 290, 240);
    const width = Math.min(frame.offsetWidth, (height * columns) / rows);
    document.getElementById("sheet").style.width = `${Math.floor(width * this.zoom)}px`;
    // The frame stays as it was, whatever the zoom.
    frame.style.height = `${Math.ceil((width * rows) / columns)}px`;
    frame.classList.toggle("zoomed", this.zoom > 1);
  }

  center(error) {
    const frame = document.getElementById("frame");
    const [row, column] = toSlice(error.place, error.axis);
    const [rows, columns] = this.volume.size(this.axis);
    const sheet = document.getElementById("sheet");
    frame.scrollLeft = (column / columns) * sheet.clientWidth - frame.clientWidth / 2;
    frame.scrollTop = (row / rows) * sheet.clientHeight - frame.clientHeight / 2;
  }

  listLayers() {
    const list = document.getElementById("layers");
    list.replaceChildren();
    for (const [number, name] of Object.keys(this.layers).entries()) {
      if (!this.volume.facts.layers.includes(name)) continue;
      const box = make("input", { type: "checkbox", id: `layer-${name}` });
      box.checked = this.layers[name][0];
      box.addEventListener("change", () => {
        this.layers[name][0] = box.checked;
        this.touched = true;
        this.refresh();
      });
      const range = make("input", { type: "range", id: `opacity-${name}`, min: 0, max: 1, step: 0.05, value: this.layers[name][1], "aria-label": `Opacity of ${name}` });
      range.addEventListener("input", () => {
        this.layers[name][1] = Number(range.value);
        this.refresh();
      });
      list.append(make("div", { class: "layer" }, make("label", { class: "check" }, box, `${number + 1} ${name}`), range));
    }
  }

  shown() {
    return this.volume.facts.layers.filter((name) => this.layers[name][0] && this.layers[name][1] > 0);
  }

  refresh() {
    this.drawn = this.paint();
    return this.drawn;
  }

  async paint() {
    const ticket = (this.ticket = (this.ticket || 0) + 1);
    const { volume, axis, position } = this;
    const layers = this.shown();
    const readout = document.getElementById("readout");
    const isLong = axis > 0 && layers.some((layer) => PICTURES.includes(layer) && (!volume.missing[layer] || volume.missing[layer].size));
    if (isLong) readout.textContent = "decoding ...";
    if (layers.includes("image") && !this.canvas.dataset.drawn) {
      // The first picture does not wait for what lies over it.
      await volume.prepare("image", axis, position);
      this.compose(["image"], axis, position);
      performance.mark("first-picture");
    }
    await Promise.all(layers.map((layer) => volume.prepare(layer, axis, position)));
    if (ticket !== this.ticket) return;
    if (isLong && readout.textContent === "decoding ...") readout.textContent = "\u00a0";
    this.compose(layers, axis, position);
    this.drawMarks();
    this.drawKey(layers);
    this.canvas.setAttribute("aria-label", `Slice ${AXES[axis]} ${position} of volume ${volume.facts.id}, layers ${layers.join(", ") || "none"}`);
    this.canvas.dataset.drawn = `${volume.facts.id} ${AXES[axis]} ${position} ${layers.join(",")}`;
  }

  compose(layers, axis, position) {
    const [rows, columns] = this.volume.size(axis);
    const [offset, byRow, byColumn] = this.volume.strides(axis, position);
    if (this.canvas.width !== columns || this.canvas.height !== rows) [this.canvas.width, this.canvas.height] = [columns, rows];
    const picture = this.context.createImageData(columns, rows);
    const pixels = picture.data;
    for (let k = 3; k < pixels.length; k += 4) pixels[k] = 255;
    for (const layer of layers) {
      const values = this.volume.arrays[layer];
      const opacity = this.layers[layer][1];
      const color = this.painter(layer);
      let k = 0;
      for (let row = 0; row < rows; row++) {
        let at = offset + row * byRow;
        for (let column = 0; column < columns; column++, at += byColumn, k += 4) {
          const value = values[at];
          if (layer === "image") {
            pixels[k] = pixels[k + 1] = pixels[k + 2] = value * opacity;
            continue;
          }
          if (!value) continue;
          const paint = color[value];
          if (!paint) continue;
          const alpha = opacity * paint[3];
          pixels[k] += (paint[0] - pixels[k]) * alpha;
          pixels[k + 1] += (paint[1] - pixels[k + 1]) * alpha;
          pixels[k + 2] += (paint[2] - pixels[k + 2]) * alpha;
        }
      }
    }
    this.context.putImageData(picture, 0, 0);
  }

  // Colour and opacity of each of 256 values.
  painter(layer) {
    if (layer === "errors") return Array.from({ length: 256 }, (_, k) => ERROR_COLORS[k] && [...ERROR_COLORS[k], 1]);
    if (layer === "probability") return Array.from({ length: 256 }, (_, k) => [255, Math.max(0, 1.6 * k - 150), Math.max(0, 3 * k - 560), k / 255]);
    const mode = document.getElementById("colours").value;
    const wanted = mode === "seams" ? this.volume.seamSheets(layer) : null;
    return Array.from({ length: 256 }, (_, k) => {
      if (k === NOT_JUDGED) return [...SHEET_COLORS[k], layer === "label" ? 0.35 : 0.6];
      if (mode === "plain") return [...LAYER_COLORS[layer], 1];
      if (wanted && !wanted.has(k)) return [150, 150, 150, 0.35];
      return [...SHEET_COLORS[k], 1];
    });
  }

  drawKey(layers) {
    const key = document.getElementById("key");
    const swatch = (color, text) => {
      const sign = make("i");
      sign.style.background = Array.isArray(color) ? `rgb(${color.join(",")})` : color;
      return make("li", {}, sign, text);
    };
    const ring = (color, text) => {
      const sign = make("i", { class: "ring" });
      sign.style.borderColor = color;
      return make("li", {}, sign, text);
    };
    const mode = document.getElementById("colours").value;
    const items = [];
    if (layers.includes("errors")) items.push(swatch(ERROR_COLORS[FOUND], "found"), swatch(ERROR_COLORS[INVENTED], "not there"), swatch(ERROR_COLORS[MISSED], "missed"));
    if (layers.includes("probability")) items.push(swatch("linear-gradient(to right, rgba(255,0,0,.1), rgb(255,120,0), rgb(255,255,200))", "probability"));
    for (const layer of ["prediction", "label"]) if (layers.includes(layer) && mode === "plain") items.push(swatch(LAYER_COLORS[layer], layer));
    if (layers.includes("label") || layers.includes("prediction")) items.push(swatch(SHEET_COLORS[NOT_JUDGED], "unlabelled"));
    const kinds = new Set(listErrors(this.volume.facts).map((error) => error.kind));
    if (document.getElementById("show-marks").checked) for (const kind of kinds) items.push(ring(KIND_COLORS[kind], kind));
    key.replaceChildren(...items);
  }

  drawMarks() {
    const svg = document.getElementById("marks");
    const [rows, columns] = this.volume.size(this.axis);
    svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    svg.replaceChildren();
    if (document.getElementById("show-marks").checked) {
      for (const error of listErrors(this.volume.facts)) {
        if (Math.abs(error.place[this.axis] - this.position) > 1 || error === this.chosen) continue;
        const [row, column] = toSlice(error.place, this.axis);
        draw(svg, "circle", { cx: column + 0.5, cy: row + 0.5, r: Math.max(3, columns / 90), stroke: KIND_COLORS[error.kind] });
      }
    }
    if (this.chosen && this.chosen.place[this.axis] === this.position) {
      const [row, column] = toSlice(this.chosen.place, this.axis);
      const radius = Math.max(5, columns / 45);
      draw(svg, "circle", { class: "chosen", cx: column + 0.5, cy: row + 0.5, r: radius });
      draw(svg, "circle", { cx: column + 0.5, cy: row + 0.5, r: radius * 0.8, stroke: KIND_COLORS[this.chosen.kind] });
      for (const [dy, dx] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) {
        draw(svg, "line", { class: "cross", x1: column + 0.5 + dx * radius, x2: column + 0.5 + dx * radius * 2, y1: row + 0.5 + dy * radius, y2: row + 0.5 + dy * radius * 2 });
      }
    }
  }

  probe(event) {
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.volume.size(this.axis);
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    this.tell(toPlace(row, column, this.axis, this.position));
  }

  // What is at a place, in words.
  async tell(place, first) {
    const { volume } = this;
    const layers = volume.facts.layers;
    await Promise.all(layers.map((layer) => volume.prepare(layer, 0, place[0])));
    const [z, y, x] = place;
    const at = (z * volume.shape[1] + y) * volume.shape[2] + x;
    const words = [...(first ? [first] : []), `z ${z}, y ${y}, x ${x}`];
    const value = (layer) => volume.arrays[layer][at];
    if (layers.includes("image")) words.push(`grey ${value("image")}`);
    if (layers.includes("probability")) words.push(`probability ${(value("probability") / 255).toFixed(2)}`);
    for (const [layer, other] of [["prediction", 1], ["label", 0]]) {
      if (!layers.includes(layer)) continue;
      const sheet = value(layer);
      const name = layer === "label" ? "labelled" : "predicted";
      if (!sheet) words.push(`not ${name}`);
      else if (sheet === NOT_JUDGED) words.push(layer === "label" ? "unlabelled" : "predicted where nothing is labelled");
      else if (sheet === OTHERS) words.push(`a small ${name} sheet`);
      else {
        const met = (volume.facts.overlaps || []).filter((row) => row[1 - other] === sheet).map((row) => row[other]);
        const others = layer === "label" ? "predicted" : "labelled";
        words.push(`${name} sheet ${sheet}` + (met.length ? ` (overlaps ${others} ${met.slice(0, 6).join(", ")}${met.length > 6 ? " ..." : ""})` : ""));
      }
    }
    document.getElementById("readout").textContent = words.join(" · ");
  }
}
