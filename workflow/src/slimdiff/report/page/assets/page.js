"use strict";
// Draws the charts, shows the cell under the pointer, and compares the samples of two cells.
// User text reaches the page through textContent alone.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DARK = {
  "#000000": "#f2f3f5", "white": "#14171a", "#666666": "#a3abb4", "#333333": "#e0e3e6", "#999999": "#7d858d",
  "#cccccc": "#3a4047", "#e6e6e6": "#2a2f34", "#0072B2": "#4aa5df", "#D55E00": "#ef7a2a", "#009E73": "#1fb98c",
  "#997700": "#cfa62a",
};
const NEAR_PX = 22; // distance within which a point reacts to the pointer
const scheme = matchMedia("(prefers-color-scheme: dark)");
const charts = [...document.querySelectorAll("[data-chart]")];
const tip = document.getElementById("tip");

function variants(chart) {
  const all = DATA[chart.dataset.chart][chart.dataset.key];
  if (chart.dataset.chart !== "pareto") return all.specs || all;
  const cost = document.querySelector("input[name=cost]:checked").value;
  const own = all.filter((variant) => variant.cost === cost);
  return own.length ? own : all;
}

// The widest variant that fits. The axis takes about 90 pixels next to the panel.
function fitting(chart) {
  const room = chart.clientWidth - 90;
  const all = variants(chart);
  return all.filter((variant) => variant.width <= room).pop() || all[0];
}

function themed(value, key) {
  if (key === "datasets" || key === "domain") return value;
  if (typeof value === "string") return scheme.matches && DARK[value] ? DARK[value] : value;
  if (Array.isArray(value)) return value.map((item) => themed(item));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, name)]));
}

function withText(spec) {
  const ink = scheme.matches ? "#e8eaed" : "#16191d";
  spec.config.axis = { ...spec.config.axis, labelColor: ink, titleColor: ink, domainColor: ink, tickColor: ink };
  spec.config.legend = { ...spec.config.legend, labelColor: ink, titleColor: ink };
  spec.config.title = { color: ink };
  return spec;
}

async function draw(chart) {
  const chosen = fitting(chart);
  const spec = withText(themed(chosen.spec));
  if (chart.dataset.chart === "pareto") {
    spec.datasets = { ...spec.datasets, points: DATA.points[chart.dataset.key] };
  }
  chart.view?.finalize();
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, tooltip: showBar };
  const result = await vegaEmbed(chart, spec, options);
  chart.view = result;
  chart.drawn = chosen;
  chart.dataset.drawn = scheme.matches ? "dark" : "light";
  if (chart.dataset.chart === "pareto") listen(chart);
}

// Vega's tooltip handler, for the bars of the timeline.
function showBar(_handler, event, _item, value) {
  if (!value || typeof value !== "object") return hide();
  fill(null, value.job || "", Object.entries(value).filter(([name]) => name !== "job"));
  place(event.clientX, event.clientY);
}

// Makes points reachable with the keyboard, and reactive to a pointer nearby.
function listen(chart) {
  const marks = [...chart.querySelectorAll("g.cells_marks path")];
  for (const mark of marks) {
    const point = mark.__data__.datum;
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", `${point.name}, ${facts(point).map((fact) => fact.join(" ")).join(", ")}`);
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", hide);
  }
  const nearest = (event) => {
    let best = null;
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      const far = Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
      if (far <= NEAR_PX && (!best || far < best.far)) best = { far, mark };
    }
    return best?.mark;
  };
  chart.onpointermove = chart.onpointerdown = (event) => {
    const mark = nearest(event);
    if (mark) show(mark);
    else if (!chart.contains(document.activeElement)) hide();
  };
  // A finger leaves at once; what it tapped stays until the next tap.
  chart.onpointerleave = (event) => event.pointerType !== "mouse" || chart.contains(document.activeElement) || hide();
}

// The columns in DATA.facts that were measured, as [label, text]; the first of them, the FID, has an interval.
function facts(point) {
  const text = (value, fact) => (fact.format.endsWith(".0f") ? Math.round(value).toLocaleString("en") : significant(value));
  const rows = [];
  for (const [place, fact] of DATA.facts.entries()) {
    const value = point[fact.column];
    if (value === null) continue;
    const interval = place > 0 || point.low === null ? "" : ` [${significant(point.low)}, ${significant(point.high)}]`;
    rows.push([fact.label, `${text(value, fact)}${interval} ${fact.unit}`.trim()]);
  }
  rows.push(["seeds", String(point.seeds)]);
  return rows;
}

function significant(value) {
  return value.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
}

function show(mark) {
  const point = mark.__data__.datum;
  const box = mark.getBoundingClientRect();
  fill(point.picture === null ? null : DATA.cells[point.picture], `${point.name} (${point.kind})`, facts(point));
  place(box.x + box.width / 2, box.y + box.height / 2);
}

function fill(cell, heading, rows) {
  const [image, title, list] = tip.children;
  if (cell) {
    image.src = cell.url;
    image.alt = `The first ${cell.images} images of ${cell.id}`;
  } else {
    image.removeAttribute("src");
    image.alt = "";
  }
  title.textContent = heading;
  list.replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function place(x, y) {
  tip.hidden = false;
  const left = Math.max(4, Math.min(x + 16, document.documentElement.clientWidth - tip.offsetWidth - 4));
  const below = y + 18 + tip.offsetHeight < innerHeight || y < tip.offsetHeight + 24;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(below ? y + 18 : y - tip.offsetHeight - 18) + scrollY}px`;
}

function hide() {
  tip.hidden = true;
}

function element(name, text) {
  const node = document.createElement(name);
  node.textContent = text;
  return node;
}

// Sample i of both cells, and below them the difference of each pixel: white is none, black the full range.
const loaded = new Map();

async function loadSheet(cell) {
  if (!loaded.has(cell.id)) {
    const image = new Image();
    image.src = cell.url;
    await image.decode();
    loaded.set(cell.id, image);
  }
  return loaded.get(cell.id);
}

function pixels(cell, image, index) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [cell.width, cell.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [x, y] = [(index % DATA.columns) * cell.width, Math.floor(index / DATA.columns) * cell.height];
  context.drawImage(image, x, y, cell.width, cell.height, 0, 0, cell.width, cell.height);
  return context.getImageData(0, 0, cell.width, cell.height);
}

function difference(one, other, context) {
  const result = context.createImageData(one.width, one.height);
  let sum = 0;
  for (let i = 0; i < one.data.length; i += 4) {
    for (let channel = 0; channel < 3; channel += 1) {
      const gap = Math.abs(one.data[i + channel] - other.data[i + channel]);
      result.data[i + channel] = 255 - gap;
      sum += gap;
    }
    result.data[i + 3] = 255;
  }
  return [result, sum / (one.width * one.height * 3)];
}

async function compare() {
  const [a, b] = ["cell-a", "cell-b"].map((id) => DATA.cells[document.getElementById(id).value]);
  const [imageA, imageB] = [await loadSheet(a), await loadSheet(b)];
  const fits = a.width === b.width && a.height === b.height;
  const tiles = [];
  let sum = 0;
  for (let index = 0; index < Math.min(a.images, b.images); index += 1) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.max(a.width, b.width), a.height + b.height + (fits ? a.height + 2 : 1)];
    const context = canvas.getContext("2d");
    const [one, other] = [pixels(a, imageA, index), pixels(b, imageB, index)];
    context.putImageData(one, 0, 0);
    context.putImageData(other, 0, a.height + 1);
    if (fits) {
      const [gaps, mean] = difference(one, other, context);
      context.putImageData(gaps, 0, a.height + b.height + 2);
      sum += mean;
    }
    const label = a.labels[index];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `image ${index + 1}${label === undefined ? "" : `, class ${label}`}: ${a.id} above, ${b.id} below`);
    const figure = document.createElement("figure");
    figure.append(canvas, element("figcaption", label === undefined ? `${index + 1}` : `${index + 1}: “${label}”`));
    tiles.push(figure);
  }
  const same = a.dataset === b.dataset && a.model === b.model && a.noise === b.noise;
  const noise = a.id === b.id ? "Both cells are the same." : same ? "Each tile starts from the same noise." : "Each tile starts from different noise: the cells differ in data set, model or seed.";
  const mean = fits && tiles.length ? ` Mean pixel difference: ${(sum / tiles.length / 2.55).toFixed(1)} % of the range.` : "";
  const describe = (cell) => `${cell.id}${cell.scores ? ` (${cell.scores})` : ""}`;
  document.getElementById("comparison").textContent = `Above: ${describe(a)}. Below: ${describe(b)}. ${noise}${mean}`;
  document.getElementById("tiles").replaceChildren(...tiles);
}

for (const chart of charts) draw(chart);
for (const button of document.querySelectorAll("input[name=cost]")) {
  button.addEventListener("change", () => charts.filter((chart) => chart.dataset.chart === "pareto").forEach(draw));
}
addEventListener("resize", () => charts.filter((chart) => chart.drawn && fitting(chart) !== chart.drawn).forEach(draw));
scheme.addEventListener("change", () => charts.forEach(draw));
addEventListener("pointerdown", (event) => event.target.closest("[data-chart]") || hide());
addEventListener("keydown", (event) => event.key === "Escape" && hide());
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => { item.open = true; }));
if (document.getElementById("tiles")) {
  for (const id of ["cell-a", "cell-b"]) document.getElementById(id).addEventListener("change", compare);
  compare();
}
