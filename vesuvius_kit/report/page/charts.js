"use strict";
// Line charts as SVG, drawn at the size they have on the page; beside each its figures as a table.

const MARGIN = { left: 52, right: 12, top: 18, bottom: 26 };
const HEIGHT = 220;
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function shortNumber(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1).replace("+", "") : String(Number(value.toPrecision(3)));
}

function exactNumber(value) {
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 1e-3 ? value.toExponential(3) : value.toPrecision(4);
}

function chooseTicks(low, high, log, count) {
  if (log) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
    }
    const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    return inside.length > count ? inside.filter((tick) => /^1/.test(tick.toExponential())) : inside;
  }
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
  return ticks;
}

// spec: title, x, y (names), log, from (the axis begins there at the latest), series [{name, points, color, dashed, shape}],
// marks [{x, y, text, color, shape}], findings [{number, from, to, text}], cap, categories
function drawChart(parent, spec) {
  const figure = make("figure", { class: "chart" });
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("role", "img");
  const at = make("p", { class: "at" }, "\u00a0");
  const legend = make("ul", { class: "legend" });
  for (const row of spec.series) {
    const line = make("i", { class: row.dashed ? "dashed" : row.shape === "points" ? "point" : "" });
    line.style[row.shape === "points" ? "background" : "borderColor"] = `var(--c${row.color})`;
    const button = make("button", { type: "button", "aria-pressed": "true" }, line, row.name);
    button.addEventListener("click", () => {
      row.hidden = !row.hidden;
      button.setAttribute("aria-pressed", !row.hidden);
      paint();
    });
    legend.append(make("li", {}, button));
  }
  for (const kind of new Map((spec.marks || []).map((mark) => [mark.kind, mark])).values()) {
    const dot = make("i", { class: "point" });
    dot.style.background = `var(--c${kind.color})`;
    legend.append(make("li", {}, dot, kind.kind));
  }
  figure.append(make("figcaption", {}, spec.title), svg, legend, at, makeTable(spec));
  parent.append(figure);

  const named = spec.series.map((row) => `${row.name} from ${exactNumber(row.points[0][1])} to ${exactNumber(row.points[row.points.length - 1][1])}`);
  svg.setAttribute("aria-label", `${spec.title}: ${named.join("; ")}`);
  const marks = (spec.marks || []).filter((mark) => mark.y !== null && mark.y !== undefined);
  const xs = spec.series.flatMap((row) => row.points.map((point) => point[0]));
  let ys = [...spec.series.flatMap((row) => row.points.map((point) => point[1])), ...marks.map((mark) => mark.y)];
  if (spec.cap && marks.length) ys.push(spec.cap);
  if (spec.log) ys = ys.filter((y) => y > 0);
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  if (spec.from !== undefined) low = Math.min(low, spec.from);
  if (spec.log) [low, high] = [low / 1.25, high * 1.25];
  else {
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [low === spec.from ? low : low - room, high + room];
  }
  let [first, last] = [Math.min(...xs), Math.max(...xs)];
  // Names are as wide as their share of the axis.
  if (spec.categories) [first, last] = [-0.5, spec.categories.length - 0.5];
  if (first === last) [first, last] = [first - 0.5, last + 0.5];

  function paint() {
    const width = Math.max(svg.clientWidth || figure.clientWidth, 200);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("height", HEIGHT);
    const [right, bottom] = [width - MARGIN.right, HEIGHT - MARGIN.bottom];
    const toX = (x) => MARGIN.left + ((x - first) / (last - first)) * (right - MARGIN.left);
    const scale = spec.log ? Math.log : (value) => value;
    const toY = (y) => bottom - ((scale(y) - scale(low)) / (scale(high) - scale(low) || 1)) * (bottom - MARGIN.top);
    for (const tick of chooseTicks(low, high, spec.log, 5)) {
      draw(svg, "line", { class: "axis", x1: MARGIN.left, x2: right, y1: toY(tick), y2: toY(tick) });
      draw(svg, "text", { x: MARGIN.left - 6, y: toY(tick) + 4, "text-anchor": "end" }, shortNumber(tick));
    }
    const ticks = spec.categories ? spec.categories.map((_, k) => k) : chooseTicks(first, last, false, Math.max(2, Math.floor(width / 70)));
    for (const tick of ticks) {
      if (!spec.categories && spec.whole && !Number.isInteger(tick)) continue;
      draw(svg, "text", { x: toX(tick), y: HEIGHT - 9, "text-anchor": "middle" }, spec.categories ? spec.categories[tick] : shortNumber(tick));
    }
    if (spec.cap && spec.cap >= low && spec.cap <= high) {
      draw(svg, "line", { class: "finding-line", x1: MARGIN.left, x2: right, y1: toY(spec.cap), y2: toY(spec.cap) });
      draw(svg, "text", { x: right, y: toY(spec.cap) - 4, "text-anchor": "end" }, "5 x base");
    }
    for (const row of spec.series.filter((each) => !each.hidden)) {
      const color = `var(--c${row.color})`;
      const points = row.points.filter((point) => !spec.log || point[1] > 0);
      if (row.shape !== "points" && points.length > 1) {
        const path = points.map(([x, y], k) => (row.shape === "step" && k ? `H${toX(x)}V${toY(y)}` : `${k ? "L" : "M"}${toX(x)} ${toY(y)}`)).join("");
        const curve = draw(svg, "path", { class: `curve${row.dashed ? " dashed" : ""}`, d: path });
        curve.style.stroke = color;
      }
      if (row.shape === "points" || points.length < 40) {
        for (const [x, y] of points) {
          const dot = draw(svg, "circle", { cx: toX(x), cy: toY(y), r: row.shape === "points" ? 4 : 2 });
          dot.style.fill = row.dashed && row.shape === "points" ? "var(--paper)" : color;
          dot.style.stroke = color;
        }
      }
    }
    for (const mark of marks) {
      const [x, y] = [toX(mark.x), toY(mark.y)];
      const shape = mark.shape === "down" ? `M${x} ${y + 7}L${x - 6} ${y - 4}H${x + 6}Z` : `M${x} ${y - 7}L${x - 6} ${y + 4}H${x + 6}Z`;
      const sign = draw(svg, "path", { class: "mark", d: shape });
      sign.style.fill = `var(--c${mark.color})`;
      draw(sign, "title", {}, `${spec.x || "at"} ${mark.x}: ${mark.text}`);
    }
    for (const finding of spec.findings || []) {
      const [from, to] = [toX(finding.from), toX(finding.to)];
      if (finding.from === finding.to) draw(svg, "line", { class: "finding-line", x1: from, x2: from, y1: MARGIN.top, y2: bottom });
      else draw(svg, "rect", { class: "finding", x: from, y: MARGIN.top - 10, width: to - from, height: 2 });
      const sign = draw(svg, "circle", { class: "finding", cx: (from + to) / 2, cy: MARGIN.top - 9, r: 8 });
      draw(sign, "title", {}, finding.text);
      draw(svg, "text", { class: "finding-text", x: (from + to) / 2, y: MARGIN.top - 5.5 }, finding.number);
    }
    const cursor = draw(svg, "line", { class: "cursor", x1: 0, x2: 0, y1: MARGIN.top, y2: bottom, visibility: "hidden" });
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const x = first + (((event.clientX - box.left) / box.width) * width - MARGIN.left) / (right - MARGIN.left) * (last - first);
      const nearest = xs.reduce((best, value) => (Math.abs(value - x) < Math.abs(best - x) ? value : best), xs[0]);
      cursor.setAttribute("x1", toX(nearest));
      cursor.setAttribute("x2", toX(nearest));
      cursor.setAttribute("visibility", "visible");
      const values = spec.series.flatMap((row) => row.points.filter((point) => point[0] === nearest).map((point) => `${row.name} ${exactNumber(point[1])}`));
      const told = (spec.marks || []).filter((mark) => mark.x === nearest).map((mark) => mark.text);
      const name = spec.categories ? spec.categories[nearest] : exactNumber(nearest);
      at.textContent = `${spec.x || "x"} ${name}: ${[...values, ...told].join(", ")}`;
    };
    svg.onpointerleave = () => cursor.setAttribute("visibility", "hidden");
  }
  paint();
  let width = svg.clientWidth;
  new ResizeObserver(() => {
    if (svg.clientWidth !== width) {
      width = svg.clientWidth;
      paint();
    }
  }).observe(figure);
}

function makeTable(spec) {
  const details = make("details", {}, make("summary", {}, "Figures"));
  // Made when it is opened: a long run has thousands of them.
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const xs = [...new Set(spec.series.flatMap((row) => row.points.map((point) => point[0])))].sort((a, b) => a - b);
    const maps = spec.series.map((row) => new Map(row.points.map((point) => [point[0], point[1]])));
    const head = make("tr", {}, make("th", { scope: "col" }, spec.x || "x"), ...spec.series.map((row) => make("th", { scope: "col", class: "number" }, row.name)));
    const rows = xs.map((x) => make("tr", {}, make("th", { scope: "row" }, spec.categories ? spec.categories[x] : exactNumber(x)),
      ...maps.map((map) => make("td", { class: "number" }, map.has(x) ? exactNumber(map.get(x)) : "–"))));
    details.append(make("div", { class: "wide", tabindex: "0" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
  });
  return details;
}

function drawTraining(parent, logs, names) {
  const components = ["cross_entropy", "dice", "focal", "boundary", "variance", "cldice", "connectivity"];
  const kinds = { raise: [1, "up", "raise"], rollback: [3, "down", "rollback"], resumed: [5, "up", "resumed"], raise_vetoed: [4, "down", "raise held back"] };
  const series = (pick, list) => logs.flatMap((log, k) => (log ? list(log, k).filter((row) => row.points.length) : []))
    .map((row) => ({ ...row, name: names.length > 1 ? `${row.name}, ${names[row.run]}` : row.name, dashed: row.run > 0 }));
  const first = logs[0] || { findings: [], marks: [] };
  const findings = (...panels) => first.findings.filter((finding) => panels.includes(finding.panel))
    .map((finding) => ({ number: finding.number, from: finding.epochs[0], to: finding.epochs[1], text: finding.text }));
  const charts = [
    { title: "Loss", findings: findings("losses"), series: series("loss", (log, run) => [
      { name: "training", points: log.loss.train, color: 0, run }, { name: "validation", points: log.loss.validation, color: 1, run }]) },
    { title: "Validation score", from: 0, findings: findings("scores"), series: series("score", (log, run) =>
      ["score", "toposcore", "surface_dice", "voi_score"].map((name, color) => ({ name: name.replace("_", " "), points: log.score[name], color: [2, 4, 3, 5][color], run }))) },
    { title: "Components of the training loss", findings: findings("components", "output", "cosines"), series: series("components", (log, run) =>
      Object.keys(log.components).map((name) => ({ name: name.replace("_", " "), points: log.components[name], color: Math.max(components.indexOf(name), 0), run }))) },
    { title: "Learning rate", log: true, cap: first.cap, findings: findings("rate"),
      marks: first.marks.map((mark) => ({ x: mark.epoch, y: mark.rate, text: mark.text, kind: (kinds[mark.kind] || [7, "up", mark.kind])[2], color: (kinds[mark.kind] || [7])[0], shape: (kinds[mark.kind] || [7, "up"])[1] })),
      series: series("rate", (log, run) => [{ name: "rate", points: log.rate, color: 0, shape: "step", run }]) },
  ];
  for (const chart of charts) if (chart.series.length) drawChart(parent, { x: "epoch", whole: true, ...chart });
}

// Those that cost most first; the triangle is the tuned value.
function drawSlices(parent, slices, optimum) {
  const cost = (points) => Math.max(...points.map((point) => point[1])) - Math.min(...points.map((point) => point[1]));
  for (const [name, points] of Object.entries(slices).sort((a, b) => cost(b[1]) - cost(a[1]))) {
    if (!points.length) continue;
    const named = points.some((point) => typeof point[0] !== "number");
    const categories = named ? [...new Set(points.map((point) => String(point[0])))] : undefined;
    const placed = points.map(([value, score]) => [named ? categories.indexOf(String(value)) : value, score]).sort((a, b) => a[0] - b[0]);
    const tuned = points.find((point) => point[0] === optimum[name]);
    const marks = tuned ? [{ x: named ? categories.indexOf(String(tuned[0])) : tuned[0], y: tuned[1], kind: "tuned", text: "tuned", color: 1, shape: "down" }] : [];
    drawChart(parent, { title: name, x: named ? "" : "value", categories, marks, series: [{ name: "score", points: placed, color: 2, shape: named ? "points" : "line" }] });
  }
}

function drawHistory(parent, history) {
  if (!history.length) return;
  let best = -Infinity;
  const bests = history.map(([trial, score]) => [trial, (best = Math.max(best, score))]);
  drawChart(parent, { title: "Score of the trials", x: "trial", whole: true, series: [
    { name: "trial", points: history, color: 5, shape: "points" }, { name: "best so far", points: bests, color: 2, shape: "step" }] });
}
