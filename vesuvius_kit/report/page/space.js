"use strict";
// The sheets of a volume as surfaces that can be turned. The library is unpacked when it is first needed.

const STEPS_A_VOXEL = 16;

async function loadLibrary() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await inflate("plotly"));
  document.head.append(script);
}

async function readMeshes(volume, side) {
  const pieces = volume.facts.meshes[side];
  const bytes = await inflate(`blob-${volume.number}-mesh-${side}`);
  const vertices = new Uint16Array(bytes.buffer, 0, 3 * pieces.reduce((sum, piece) => sum + piece.n_vertices, 0));
  const triangles = new Uint32Array(bytes.buffer, Math.ceil(vertices.byteLength / 4) * 4);
  let [vertex, triangle] = [0, 0];
  return pieces.map((piece) => {
    const column = (values, start, count, k, scale) => Array.from({ length: count }, (_, n) => values[3 * (start + n) + k] / scale);
    const mesh = { sheet: piece.sheet };
    ["x", "y", "z"].forEach((name, k) => (mesh[name] = column(vertices, vertex, piece.n_vertices, k, STEPS_A_VOXEL)));
    ["i", "j", "k"].forEach((name, k) => (mesh[name] = column(triangles, triangle, piece.n_triangles, k, 1)));
    vertex += piece.n_vertices;
    triangle += piece.n_triangles;
    return mesh;
  });
}

function nameSheet(volume, side, sheet) {
  if (!sheet) return "smaller ones";
  const seams = (volume.facts.seams || []).filter((seam) => seam.sheet === sheet && seam.kind === (side === "prediction" ? "merged" : "split"));
  const others = [...new Set(seams.flatMap((seam) => seam.others))].sort((a, b) => a - b);
  const does = side === "prediction" ? "joins labelled" : "is cut into predicted";
  return `sheet ${sheet}${others.length ? ` ${does} ${others.join(", ")}` : ""}`;
}

// Colours of the vertices under a light that falls on both sides of a sheet alike: the two sides of a thin one are one surface.
function shadeVertices(mesh, color) {
  const light = [0.48, 0.36, 0.8];
  const [sums, counts] = [new Float32Array(mesh.x.length), new Uint16Array(mesh.x.length)];
  for (let n = 0; n < mesh.i.length; n++) {
    const [a, b, c] = [mesh.i[n], mesh.j[n], mesh.k[n]];
    const [u, v] = [b, c].map((end) => ["x", "y", "z"].map((name) => mesh[name][end] - mesh[name][a]));
    const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    const shade = Math.abs(normal.reduce((sum, part, k) => sum + part * light[k], 0)) / (Math.hypot(...normal) || 1);
    for (const vertex of [a, b, c]) {
      sums[vertex] += shade;
      counts[vertex] += 1;
    }
  }
  return Array.from(sums, (sum, n) => `rgb(${color.map((part) => Math.round(part * (0.4 + 0.65 * (counts[n] ? sum / counts[n] : 1)))).join(",")})`);
}

async function drawSpace(volume) {
  const state = document.getElementById("space-state");
  const plot = document.getElementById("space-plot");
  const side = document.getElementById("space-side").value;
  state.textContent = "drawing ...";
  try {
    await loadLibrary();
    const meshes = await readMeshes(volume, side);
    const traces = meshes.map((mesh) => ({
      type: "mesh3d", x: mesh.x, y: mesh.y, z: mesh.z, i: mesh.i, j: mesh.j, k: mesh.k,
      color: `rgb(${SHEET_COLORS[mesh.sheet || OTHERS].join(",")})`, vertexcolor: shadeVertices(mesh, SHEET_COLORS[mesh.sheet || OTHERS]),
      name: nameSheet(volume, side, mesh.sheet), showlegend: true, hoverinfo: "name",
      lighting: { ambient: 1, diffuse: 0, specular: 0, roughness: 1, fresnel: 0 },
    }));
    const style = getComputedStyle(document.documentElement);
    const [ink, paper, line] = ["--ink", "--raised", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = (title, size) => ({ title: { text: title }, range: [0, size - 1], color: ink, gridcolor: line, zerolinecolor: line, showbackground: false });
    const [nZ, nY, nX] = volume.shape;
    plot.hidden = false;
    const isNarrow = plot.clientWidth < 600;
    await window.Plotly.newPlot(plot, traces, {
      paper_bgcolor: paper, font: { color: ink }, margin: { l: 0, r: 0, t: 0, b: 0 },
      legend: isNarrow ? { orientation: "h", y: 0, yanchor: "top", font: { size: 10 } } : { x: 0, y: 1, bgcolor: "rgba(0,0,0,0)", font: { size: 11 } },
      scene: { aspectmode: "data", xaxis: axis("x", nX), yaxis: axis("y", nY), zaxis: axis("z", nZ) },
    }, { displaylogo: false, responsive: true });
    plot.dataset.drawn = side;
    const left = volume.facts.undrawn[side];
    const omitted = left ? ` ${left} ${left === 1 ? "sheet" : "sheets"} under a hundred voxels ${left === 1 ? "is" : "are"} not drawn.` : "";
    state.textContent = `Drag to turn; a click in the legend hides a sheet.${omitted}`;
  } catch (error) {
    // WebGL may be switched off.
    state.textContent = `cannot be drawn here: ${error.message}`;
  }
}

function connectSpace(viewer) {
  const sides = document.getElementById("space-side");
  const plot = document.getElementById("space-plot");
  const button = document.getElementById("space-draw");
  const list = (volume) => {
    sides.replaceChildren(...Object.keys(volume.facts.meshes).map((side) => make("option", { value: side }, `the ${side}`)));
    button.disabled = !sides.options.length;
    plot.hidden = true;
    document.getElementById("space-state").textContent = sides.options.length ? "" : "no sheets to draw";
  };
  viewer.listeners.push((volume, error) => error === undefined && list(volume));
  list(viewer.volume);
  button.addEventListener("click", () => drawSpace(viewer.volume));
  const redraw = () => !plot.hidden && drawSpace(viewer.volume);
  sides.addEventListener("change", redraw);
  document.addEventListener("theme", redraw);
}
