"use strict";
// Puts the page together from the data beside it.

const data = JSON.parse(document.getElementById("data").textContent);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", theme === "dark");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Change to ${theme === "dark" ? "light" : "dark"} colours`);
  document.dispatchEvent(new Event("theme"));
}

setTheme(document.documentElement.dataset.theme);
document.getElementById("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));

if (data.volumes.length) {
  const viewer = new Viewer(data.volumes);
  viewer.listeners.push((volume, error) => (error ? markChosen(volume, error) : showErrors(viewer, volume)));
  // The picture first, the lists after it.
  viewer.drawn.then(() => showErrors(viewer, viewer.volume));
  connectSpace(viewer);
}
const names = data.names[1] ? data.names : data.names.slice(0, 1);
for (const charts of document.querySelectorAll(".charts[data-fold]")) {
  const fold = charts.dataset.fold;
  drawTraining(charts, data.names[1] ? [data.training[fold], data.compared[fold]] : [data.training[fold]], names);
}
if (data.tuning.slices) drawSlices(document.getElementById("tuning-slices") || document.createElement("div"), data.tuning.slices, data.tuning.optimum);
if (data.tuning.history) drawHistory(document.getElementById("tuning-history") || document.createElement("div"), data.tuning.history);
