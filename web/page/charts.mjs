// Charts in the host's own colours, by uPlot: lines over steps, and bars of the learned numbers. Each has its numbers as a table.
import { el, short } from "./elements.mjs";
import { say } from "./texts.mjs";

let library;
const plotting = () => (library ??= import("../lib/uPlot-1.6.32.mjs").then((module) => module.default));

// Names of colours in dode.css, which takes them from the host's.
const COLOURS = { before: "--dode-before", after: "--dode-after", text: "--dode-text", faint: "--dode-grid" };
const TAPS = ["--dode-after", "--dode-tap-2", "--dode-tap-3"];

/** What a CSS colour is right now: a canvas does not know the page's variables. */
function colour(name, on) {
  const probe = el("i", { style: `display:none;color:var(${name})` });
  on.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const living = new Set();
let scheduled = false;
new MutationObserver(() => {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const chart of living) chart.recolour();
  });
}).observe(document.documentElement, { attributes: true, attributeFilter: ["class", "style"] });
new MutationObserver(() => living.forEach((chart) => chart.recolour())).observe(document.body, { attributes: true, attributeFilter: ["class", "style"] });

/**
 * @param {{title: string, names: string[], columns: (number|null)[][], rows: string[], options: (colours: (name: string) => string) => object, data: any[], corner: string}} what
 *   names and columns: what the table shows; options and data: what uPlot draws.
 */
function chart(what) {
  const host = el("div", { class: "dode-plot", role: "img", "aria-label": what.title });
  const head = el("tr", {}, el("th", { scope: "col", text: what.corner }), what.names.map((name) => el("th", { scope: "col", text: name })));
  const rows = what.rows.map((row, i) => el("tr", {}, el("th", { scope: "row", text: row }), what.columns.map((column) => el("td", { text: short(column[i]) }))));
  const legend = what.keys.map(([name, key, dashed]) => el("span", { class: `dode-key${dashed ? " dode-dashed" : ""}`, style: `--key:var(${key})`, text: name }));
  const numbers = el("details", {}, el("summary", { text: say("numbers") }), el("div", { class: "dode-scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
  const figure = el("figure", { class: "dode-chart" }, el("figcaption", { text: what.title }), el("div", { class: "dode-keys", "aria-hidden": "true" }, legend), host, numbers);
  let plot,
    palette = {};
  const entry = {
    recolour() {
      if (!figure.isConnected || !plot) return;
      palette = {};
      plot.redraw(false);
    },
  };
  const tint = (name) => (palette[name] ??= colour(name, host));
  plotting().then((uPlot) => {
    const watch = new ResizeObserver(() => {
      const width = Math.floor(host.clientWidth);
      if (!host.isConnected) {
        if (!plot) return;
        plot.destroy();
        plot = null;
        watch.disconnect();
        living.delete(entry);
      } else if (width > 40) {
        const size = { width, height: 150 };
        if (plot) plot.setSize(size);
        else plot = new uPlot({ ...size, ...what.options(tint, uPlot) }, what.data, host);
        living.add(entry);
      }
    });
    watch.observe(host);
  });
  return figure;
}

const FONT = "11px system-ui, sans-serif";

function axes(tint, bottom, left) {
  const axis = { font: FONT, labelFont: FONT, stroke: () => tint(COLOURS.text), ticks: { stroke: () => tint(COLOURS.faint), width: 1 } };
  const grid = { stroke: () => tint(COLOURS.faint), width: 1 };
  return [
    { ...axis, grid: { show: false }, size: 26, space: 18, incrs: [1, 2, 5, 10, 20], ...bottom },
    { ...axis, grid, size: 50, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick, 2))), ...left },
  ];
}

const DIGITS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1]];
const CLOSEST = 0.12; // of the axis, so that numbers do not touch

// uPlot's own ticks of a logarithmic axis need ends that are powers of ten; with others they may never end.
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

/** Errors before and after distilling, over steps or rounds; the axis is logarithmic. A single one is a level across the chart. */
export function errorChart({ title, rowName, numbers, before, after, names }) {
  const positive = (values) => values.map((value) => (value > 0 ? value : null));
  const solid = (name, values) => ({ name, values: positive(values) });
  const lines = [solid(names[0], before), solid(names[1], after)];
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  if (!values.length) return null;
  // Room above and below, so that single points and flat lines are seen.
  const low = Math.min(...values) / 2,
    high = Math.max(...values) * 2;
  const level = numbers.length === 1;
  const ends = [numbers[0] - 0.4, numbers.at(-1) + 0.4];
  return chart({
    title,
    corner: rowName,
    rows: numbers.map(String),
    names,
    columns: [before, after],
    keys: [
      [names[0], COLOURS.before, true],
      [names[1], COLOURS.after, false],
    ],
    data: level ? [ends, ...lines.map((line) => [line.values[0], line.values[0]])] : [numbers, ...lines.map((line) => line.values)],
    options: (tint) => ({
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => ends }, y: { distr: 3, range: () => [low, high] } },
      axes: axes(tint, {}, { splits: (_, __, from, to) => ticksBetween(from, to), filter: (_, ticks) => ticks }),
      series: [
        {},
        ...["before", "after"].map((key, i) => ({
          stroke: () => tint(COLOURS[key]),
          width: 2,
          dash: i ? undefined : [5, 4],
          points: { show: !level, size: 6, fill: () => tint(COLOURS[key]), stroke: () => tint(COLOURS[key]) },
        })),
      ],
    }),
  });
}

/** The learned numbers: bars in groups, one group for each row of the solver's table. */
export function barChart({ title, rowName, name, table }) {
  const taps = Math.max(...table.map((row) => row.length));
  const used = Array.from({ length: taps }, (_, k) => k).filter((k) => k === 0 || table.some((row) => row[k]));
  const width = 0.8 / used.length;
  const positions = table.flatMap((_, row) => used.map((_, i) => row + 1 + (i - (used.length - 1) / 2) * width));
  const bars = used.map((k, i) => table.flatMap((row) => used.map((_, j) => (j === i ? (row[k] ?? 0) : null))));
  const largest = Math.max(1e-9, ...table.flat().map(Math.abs)) * 1.1;
  const names = used.map((k) => (used.length === 1 ? name : `${name} ${k + 1}`));
  const shade = (i) => TAPS[i % TAPS.length];
  return chart({
    title,
    corner: rowName,
    rows: table.map((_, row) => String(row + 1)),
    names,
    columns: used.map((k) => table.map((row) => row[k] ?? 0)),
    keys: names.slice(0, 6).map((text, i) => [text, shade(i), false]),
    data: [positions, ...bars],
    options: (tint, uPlot) => ({
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => [0.4, table.length + 0.6] }, y: { range: () => [-largest, largest] } },
      axes: axes(tint, { splits: () => table.map((_, row) => row + 1) }, {}),
      series: [
        {},
        ...used.map((_, i) => ({
          stroke: () => tint(shade(i)),
          fill: () => tint(shade(i)),
          width: 0,
          points: { show: false },
          paths: uPlot.paths.bars({ size: [0.9, 60], align: 0 }),
        })),
      ],
    }),
  });
}
