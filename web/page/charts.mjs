// Charts as SVG, sharp at every zoom and in the page's own colours. What they show comes from the server as data (dode/charts.py).
// Each has a sentence that says what is seen, and its numbers as a table.
import { el, short, svg } from "./elements.mjs";
import { say } from "./texts.mjs";

const WIDTH = 320,
  HEIGHT = 172;
const ROOM = { left: 50, right: 8, top: 8, bottom: 34 };

// Classes of dode.css: dashes and shapes tell the lines apart where colours do not.
const classOf = (series) => (series.key === "tap" ? `dode-tap-${Math.max(series.number, 1)}` : `dode-${series.key}`);
const nameOf = (series) => (series.key === "tap" ? `λ${series.number ? "₁₂₃"[series.number - 1] : ""}` : say(series.key));

const DIGITS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1]];
const CLOSEST = 0.12; // of the axis, so that numbers do not touch

function ticksBetween(low, high) {
  const room = CLOSEST * Math.log10(high / low);
  const ticks = (digits) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      found.push(...digits.map((digit) => Number(`${digit}e${power}`)).filter((tick) => tick >= low && tick <= high));
    return found;
  };
  const kinds = DIGITS.map(ticks);
  const apart = kinds.find((found) => found.every((tick, i) => i === 0 || Math.log10(tick / found[i - 1]) >= room));
  return apart ?? kinds.at(-1).filter((_, i) => i % Math.ceil(room) === 0); // every so many powers of ten
}

/** Round numbers from low to high, four or so. */
function roundTicks(low, high) {
  const rough = (high - low) / 4,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** The vertical axis: from a value to a height, and where it has numbers. */
function vertical(chart) {
  const values = [...chart.series.flatMap((series) => series.values), chart.level].filter((value) => value !== null && value !== undefined && (!chart.logarithmic || value > 0));
  if (!values.length) return null;
  let low = Math.min(...values),
    high = Math.max(...values);
  if (chart.logarithmic) [low, high] = [low / 1.5, high * 1.5];
  else [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (low === high) high = low + 1;
  const part = chart.logarithmic ? (value) => Math.log(value / low) / Math.log(high / low) : (value) => (value - low) / (high - low);
  const at = (value) => HEIGHT - ROOM.bottom - part(value) * (HEIGHT - ROOM.top - ROOM.bottom);
  return { at, ticks: chart.logarithmic ? ticksBetween(low, high) : roundTicks(low, high), bottom: chart.logarithmic ? low : 0 };
}

const wide = WIDTH - ROOM.left - ROOM.right;

function line(series, places, axis) {
  const points = series.values.map((value, i) => (value === null || value === undefined ? null : [places[i], axis.at(value)])).filter(Boolean);
  const marks = points.length > 24 ? [] : points.map(([x, y]) => (series.key === "start" ? svg("rect", { x: x - 3, y: y - 3, width: 6, height: 6 }) : svg("circle", { cx: x, cy: y, r: 3.2 })));
  return svg("g", { class: `dode-line-of ${classOf(series)}` }, svg("polyline", { points: points.map((point) => point.join(",")).join(" ") }), marks);
}

function bars(series, number, count, places, axis) {
  const each = (0.76 * wide) / places.length / count;
  const width = Math.min(each, 46);
  return svg(
    "g",
    { class: `dode-bars-of ${classOf(series)}` },
    series.values.map((value, i) => {
      if (value === null) return null;
      const ends = [axis.at(value), axis.at(axis.bottom)].sort((a, b) => a - b);
      const x = places[i] + (number - count / 2) * width;
      return svg("rect", { x, y: ends[0], width: Math.max(width - 1, 1), height: Math.max(ends[1] - ends[0], 0.5) });
    }),
  );
}

/** Where each label stands; only as many are written as there is room for. */
function horizontal(chart) {
  const count = chart.labels.length;
  const spread = chart.positions; // of a curve whose points are not evenly apart, from 0 to 1
  const places = chart.labels.map((_, i) => ROOM.left + wide * (spread ? 0.02 + 0.96 * spread[i] : (i + 0.5) / count));
  const every = Math.ceil(count / 12);
  const written = chart.ticks ?? chart.labels.map((text, i) => (i % every ? null : [places[i], text])).filter(Boolean);
  return { places, written };
}

/**
 * @param {{key: string, form: "lines" | "bars", labels: string[], series: {key: string, number: number, values: (number | null)[]}[],
 *   logarithmic: boolean, level: number | null, levelName?: string, axis: string, positions?: number[]}} chart
 * @param {string} note a sentence that says what is seen
 */
export function drawChart(chart, note) {
  const axis = vertical(chart);
  if (!axis) return null;
  const { places, written } = horizontal(chart);
  const across = (value, kind) => svg("line", { class: kind, x1: ROOM.left, x2: WIDTH - ROOM.right, y1: axis.at(value), y2: axis.at(value) });
  const write = (x, y, text, more) => svg("text", { x, y, ...more }, text);
  const title = say(`title_${chart.key}`);
  const picture = svg(
    "svg",
    { class: "dode-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title },
    axis.ticks.map((tick) => [across(tick, "dode-grid"), write(ROOM.left - 6, axis.at(tick) + 4, short(tick, 3), { class: "dode-end" })]),
    written.map(([x, text]) => write(x, HEIGHT - ROOM.bottom + 15, text, { class: "dode-middle" })),
    chart.form === "bars" ? chart.series.map((series, i) => bars(series, i, chart.series.length, places, axis)) : chart.series.map((series) => line(series, places, axis)),
    chart.form === "bars" && !chart.logarithmic ? across(0, "dode-zero") : null,
    chart.level !== null && chart.level !== undefined ? across(chart.level, "dode-level") : null,
    write(ROOM.left + wide / 2, HEIGHT - 4, chart.axis ? say(`axis_${chart.axis}`) : "", { class: "dode-middle dode-axis" }),
    write(0, 0, say(`unit_${chart.key}`), { class: "dode-middle dode-axis", transform: `translate(10 ${(HEIGHT - ROOM.bottom) / 2}) rotate(-90)` }),
  );
  const keys = chart.series.length > 1 && !chart.levelName ? chart.series.map((series) => el("span", { class: `dode-key dode-${chart.form} ${classOf(series)}`, text: nameOf(series) })) : [];
  if (chart.level !== null && chart.level !== undefined) keys.push(el("span", { class: "dode-key dode-lines dode-set", text: chart.levelName ?? say("as_set", { n: short(chart.level) }) }));
  return el(
    "figure",
    { class: "dode-chart" },
    el("figcaption", { text: title }),
    keys.length ? el("div", { class: "dode-keys", "aria-hidden": "true" }, keys) : null,
    picture,
    note ? el("p", { class: "dode-note", text: note }) : null,
    numbers(chart),
  );
}

function numbers(chart) {
  const head = el("tr", {}, el("th", { scope: "col", text: chart.axis ? say(`axis_${chart.axis}`) : "" }), chart.series.map((series) => el("th", { scope: "col", text: nameOf(series) })));
  const rows = chart.labels.map((label, i) => el("tr", {}, el("th", { scope: "row", text: label }), chart.series.map((series) => el("td", { text: short(series.values[i]) }))));
  const table = el("table", {}, el("thead", {}, head), el("tbody", {}, rows));
  return el("details", {}, el("summary", { text: say("numbers") }), el("div", { class: "dode-scroll" }, table));
}

/** Of a running fit: the best held-out error so far over the evaluations spent, a line for each sampler, and where the newest began. */
export function progressChart(points) {
  const last = points.at(-1);
  const most = last.evaluations || 1;
  const fits = Array.from({ length: last.fit }, (_, i) => i + 1);
  const chart = {
    key: "progress",
    form: "lines",
    labels: points.map((point) => String(point.evaluations)),
    positions: points.map((point) => point.evaluations / most),
    ticks: [0, 0.5, 1].map((part) => [ROOM.left + wide * (0.02 + 0.96 * part), String(Math.round(part * most))]),
    series: fits.map((fit) => ({ key: "learned", number: 0, values: points.map((point) => (point.fit === fit ? point.best : null)) })),
    logarithmic: true,
    level: last.start,
    levelName: say("start"),
    axis: "evaluations",
  };
  return drawChart(chart, last.best < last.start ? say("progress_so_far", { part: Math.round(100 * (1 - last.best / last.start)) }) : say("progress_none"));
}
