"use strict";
// The lists of errors: merged and split sheets, then what the topology has too much and too little.

const MOST_ROWS = 200;
const known = new WeakMap();

// All errors of a volume in the order of the lists, each an object that stays the same.
function listErrors(facts) {
  if (!known.has(facts)) known.set(facts, groupErrors(facts).flatMap((group) => group.errors));
  return known.get(facts);
}

function groupErrors(facts) {
  const seams = facts.seams || [];
  const features = facts.features || [];
  const counts = facts.counts || {};
  const groups = [
    { title: "Merged sheets", unit: "bridge", errors: seams.filter((seam) => seam.kind === "merged") },
    { title: "Split sheets", unit: "edge", errors: seams.filter((seam) => seam.kind === "split") },
  ];
  const sides = { prediction: "only in the prediction", label: "only in the label" };
  const plural = { component: "Components", tunnel: "Tunnels", cavity: "Cavities" };
  for (const kind of ["tunnel", "component", "cavity"]) {
    for (const side of ["prediction", "label"]) {
      const errors = features.filter((feature) => feature.kind === kind && feature.side === side);
      groups.push({ title: `${plural[kind]} ${sides[side]}`, unit: kind === "tunnel" ? "width" : "voxels", errors, total: (counts[side] || {})[kind] });
    }
  }
  return groups.filter((group) => group.errors.length || group.total);
}

function describeError(error) {
  if (error.kind === "merged") return `predicted ${error.sheet} joins labelled ${error.others[0]} and ${error.others[1]}`;
  if (error.kind === "split") return `labelled ${error.sheet} is cut into predicted ${error.others[0]} and ${error.others[1]}`;
  return `octant ${error.octant}`;
}

// The whole of it, for who does not see the list.
function nameError(error) {
  if (error.kind === "merged" || error.kind === "split") return `${error.kind} sheets: ${describeError(error)}`;
  const size = error.kind === "tunnel" ? `width ${describeSize(error)}` : `${error.size} voxels`;
  return `${error.kind} only in the ${error.side}, ${size}`;
}

function describeSize(error) {
  return error.kind === "tunnel" && !error.size ? "more than 8" : String(error.size);
}

function showErrors(viewer, volume) {
  const lists = document.getElementById("error-lists");
  const groups = groupErrors(volume.facts);
  for (const heading of document.querySelectorAll(".of-volume")) heading.textContent = ` in volume ${volume.facts.id}`;
  lists.replaceChildren();
  document.getElementById("errors-note").hidden = !groups.length;
  if (!groups.length) {
    lists.append(make("p", {}, volume.facts.features ? `None in volume ${volume.facts.id}.` : `Volume ${volume.facts.id} has no label to compare with.`));
    return;
  }
  const errors = listErrors(volume.facts);
  if ((volume.facts.unlisted || []).length) {
    lists.append(make("p", { class: "worse" }, `Octants ${volume.facts.unlisted.join(", ")} have so many features that they are counted and not listed.`));
  }
  for (const group of groups) {
    const total = group.total ?? group.errors.length;
    const more = total > group.errors.length ? `, ${group.errors.length ? `the ${group.errors.length} largest` : "none"} listed` : "";
    const rows = group.errors.slice(0, MOST_ROWS).map((error) => {
      const [z, y, x] = error.place;
      const button = make("button", { type: "button", "data-error": errors.indexOf(error), "aria-label": `Go to z ${z}, y ${y}, x ${x}: ${describeError(error)}` }, `${z}, ${y}, ${x}`);
      button.addEventListener("click", () => {
        viewer.goTo(error);
        document.getElementById("slices").scrollIntoView();
      });
      return make("tr", { "data-error": errors.indexOf(error) }, make("td", {}, button), make("td", { class: "number" }, describeSize(error)), make("td", {}, describeError(error)));
    });
    const head = make("tr", {}, make("th", { scope: "col" }, "z, y, x"), make("th", { scope: "col", class: "number" }, group.unit), make("th", { scope: "col" }, "what"));
    lists.append(make("details", { open: total <= 12 || group === groups[0] }, make("summary", {}, `${group.title}: ${total}${more}`),
      make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": group.title }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)))));
  }
  lists.append(listOverlaps(volume.facts));
}

// Which predicted sheets lie on which labelled ones, the largest first.
function listOverlaps(facts) {
  const sizes = facts.sheets.prediction;
  const met = new Map();
  for (const [predicted, labelled, voxels] of facts.overlaps || []) met.set(predicted, [...(met.get(predicted) || []), [labelled, voxels]]);
  const rows = sizes.slice(0, MOST_ROWS).map((size, k) => {
    const others = (met.get(k + 1) || []).map(([labelled, voxels]) => `${labelled} (${voxels})`);
    return make("tr", {}, make("th", { scope: "row" }, String(k + 1)), make("td", { class: "number" }, String(size)), make("td", {}, others.join(", ") || "none"));
  });
  const head = make("tr", {}, make("th", { scope: "col" }, "predicted sheet"), make("th", { scope: "col", class: "number" }, "voxels"), make("th", { scope: "col" }, "labelled sheets in it (voxels)"));
  return make("details", {}, make("summary", {}, `Which sheets overlap: ${facts.n_sheets[0]} predicted, ${facts.n_sheets[1]} labelled`),
    make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Which sheets overlap" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
}

function markChosen(volume, error) {
  const number = error ? listErrors(volume.facts).indexOf(error) : -1;
  for (const row of document.querySelectorAll("#error-lists tr[data-error]")) row.classList.toggle("chosen", Number(row.dataset.error) === number);
}
