"use strict";
// Draws the charts, shows the cell under the pointer, and puts two cells' images beside each other.
// Text that people wrote goes into the page by textContent alone.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DARK = {
  "#000000": "#f2f3f5", "white": "#14171a", "#666666": "#a3abb4", "#333333": "#e0e3e6", "#999999": "#7d858d",
  "#cccccc": "#3a4047", "#e6e6e6": "#2a2f34", "#0072B2": "#4aa5df", "#D55E00": "#ef7a2a", "#009E73": "#1fb98c",
  "#997700": "#cfa62a",
};
const NEAR_PX = 22; // a point reacts from so far away
const scheme = matchMedia("(prefers-color-scheme: dark)");
const charts = [...document.querySelectorAll("[data-chart]")];
const tip = document.getElementById("tip");

function variants(chart) {
  const found = DATA[chart.dataset.chart][chart.dataset.key];
  if (chart.dataset.chart !== "pareto") return found.specs || found;
  const cost = document.querySelector("input[name=cost]:checked").value;
  const own = found.filter((variant) => variant.cost === cost);
  return own.length ? own : found;
}

// The widest drawing that has room; panels are narrower than the drawing by their axis.
function fitting(chart) {
  const room = chart.clientWidth - 90;
  const found = variants(chart);
  return found.filter((variant) => variant.width <= room).pop() || found[0];
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
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, tooltip: quietTip };
  const result = await vegaEmbed(chart, spec, options);
  chart.view = result;
  chart.drawn = chosen;
  chart.dataset.drawn = scheme.matches ? "dark" : "light";
  if (chart.dataset.chart === "pareto") reach(chart);
}

// Vega's own tooltips, as a line of text, for the bars of the timeline.
function quietTip(_handler, event, _item, value) {
  if (!value || typeof value !== "object") return hide();
  fill(null, value.job || "", Object.entries(value).filter(([name]) => name !== "job"));
  place(event.clientX, event.clientY);
}

// Points can be reached with the keyboard, and react to a pointer that is near enough.
function reach(chart) {
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
  // A finger leaves at once; what it tapped stays until it taps elsewhere.
  chart.onpointerleave = (event) => event.pointerType !== "mouse" || chart.contains(document.activeElement) || hide();
}

function facts(point) {
  const number = (value, digits) => value.toLocaleString("en", { minimumSignificantDigits: digits, maximumSignificantDigits: digits });
  const found = [];
  if (point.fid !== null) {
    const interval = point.low === null ? "" : ` [${number(point.low, 3)}, ${number(point.high, 3)}]`;
    found.push(["FID", number(point.fid, 3) + interval]);
  }
  if (point.fid_indomain_pct !== null) found.push(["rFID", `${number(point.fid_indomain_pct, 3)} %`]);
  if (point.size_mb !== null) found.push(["gzip size", `${number(point.size_mb, 3)} MB`]);
  if (point.inference_ms_per_image !== null) found.push(["per image", `${number(point.inference_ms_per_image, 3)} ms`]);
  if (point.gmacs !== null) found.push(["arithmetic", `${number(point.gmacs, 3)} G multiply-accumulates`]);
  if (point.params_nonzero !== null) found.push(["non-zero", `${Math.round(point.params_nonzero).toLocaleString("en")} parameters`]);
  found.push(["seeds", String(point.seeds)]);
  return found;
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
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

// Image i of both cells above each other, and below them how far each pixel moved: white is nothing, black is all the way.
const loaded = new Map();

async function picture(cell) {
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

function moved(one, other, context) {
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
  const [imageA, imageB] = [await picture(a), await picture(b)];
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
      const [gaps, mean] = moved(one, other, context);
      context.putImageData(gaps, 0, a.height + b.height + 2);
      sum += mean;
    }
    const asked = a.labels[index] === undefined ? "" : `, asked for ${a.labels[index]}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `image ${index + 1}${asked}: ${a.id} above, ${b.id} below`);
    const figure = document.createElement("figure");
    figure.append(canvas, element("figcaption", a.labels[index] === undefined ? `${index + 1}` : `${index + 1}: “${a.labels[index]}”`));
    tiles.push(figure);
  }
  const same = a.dataset === b.dataset && a.model === b.model && a.seed === b.seed;
  const noise = a.id === b.id ? "Twice the same cell." : same ? "The same noise in each column." : "Other noise: these cells differ in data set, model or seed, so a column is no pair.";
  const mean = fits && tiles.length ? ` Pixels moved by ${(sum / tiles.length / 2.55).toFixed(1)} % of the range on average.` : "";
  const told = (cell) => `${cell.id}${cell.told ? ` (${cell.told})` : ""}`;
  document.getElementById("verdict").textContent = `Above: ${told(a)}. Below: ${told(b)}. ${noise}${mean}`;
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
