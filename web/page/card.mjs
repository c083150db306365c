// The card of distilled parameters: for which model, how many steps, by whom, how much better; with charts.
import { api } from "../../../scripts/api.js";
import { drawChart } from "./charts.mjs";
import { breakable, choices, el, short } from "./elements.mjs";
import { exportAddress } from "./files.mjs";
import { reasons } from "./reasons.mjs";
import { say } from "./texts.mjs";

/** How much closer a sampler comes than it did before anything was learned, in one sentence. */
export function gainWords(entry) {
  const { report } = entry;
  if (!report?.before) return say("no_report");
  const part = Math.round(100 * (1 - report.after / report.before));
  const values = { steps: entry.steps, part, solver: entry.start };
  return say(part > 0 ? "gain" : "no_change", values);
}

/** How many steps of the usual solver that is, in one sentence; null where it was not measured. */
export function worthWords(worth, entry) {
  if (!worth) return null;
  const ours = entry.evaluations,
    solver = worth.method;
  if (worth.steps === null) return say("worth", { theirs: worth.most, solver });
  if (worth.steps <= ours) return say("no_gain", { ours, theirs: worth.steps, solver });
  return say("worth", { theirs: worth.steps - 1, solver });
}

function errorWords({ report }) {
  return report && say(report.held_out === 1 ? "error_fell_one" : "error_fell", { n: report.held_out, before: short(report.before), after: short(report.after) });
}

function warnings(match) {
  const lines = [];
  if (match?.hard?.length) lines.push(el("p", { class: "dode-misfit", role: "alert", text: `⚠ ${say("misfit", { why: reasons(match.hard) })}` }));
  if (match?.soft?.length) lines.push(el("p", { class: "dode-warning", role: "note", text: `⚠ ${say("loose", { why: reasons(match.soft) })}` }));
  return lines;
}

const PREDICTIONS = ["eps", "v", "edm", "flow", "x0"]; // that have words

function facts(entry, file) {
  const { model, report } = entry;
  const prediction = PREDICTIONS.includes(model.prediction) ? say(`predicts_${model.prediction}`) : model.prediction;
  const kind = [model.family, prediction, model.channels && say("channels", { n: model.channels })].filter(Boolean).join(say("comma"));
  const rows = [
    ["model", model.name || say("any_model")],
    ["kind", kind],
    ["solver", [entry.solver, say("steps", entry), entry.guidance !== null && say("guidance", { n: short(entry.guidance) })].filter(Boolean).join(say("comma"))],
    ["by", file?.author],
    ["licence", file?.licence],
    ["measured", report && say(report.held_out === 1 ? "samples_one" : "samples", { samples: report.samples, held: report.held_out })],
    ["teacher", report && say("teacher_words", { method: report.teacher, error: short(report.teacher_error) })],
    ["notes", file?.notes],
  ];
  return el("dl", { class: "dode-facts" }, rows.filter(([, text]) => text).flatMap(([key, text]) => [el("dt", { text: say(key) }), el("dd", {}, breakable(text))]));
}

/** What a chart shows, in a plain sentence. */
function noteOf(chart, entry) {
  const of = (key) => chart.series.find((series) => series.key === key)?.values;
  const [start, learned] = [of("start"), of("learned")];
  if (chart.key === "error" && chart.form === "lines") return say(start.some((value, i) => i < start.length - 1 && learned[i] > value) ? "note_error_detour" : "note_error_steps");
  if (chart.key === "error") return say("note_error_end");
  if (chart.key === "sigmas") return start ? say("note_sigmas", { solver: entry.start }) : say("note_sigmas_same");
  if (chart.key === "guidance") return say("note_guidance", { n: short(chart.level) });
  return say(chart.series.length > 1 ? "note_lambda_more" : "note_lambda");
}

function charts(entry) {
  const place = el("div");
  const put = (key) => {
    const chart = entry.charts.find((each) => each.key === key);
    place.replaceChildren(...[drawChart(chart, noteOf(chart, entry))].filter(Boolean));
  };
  const names = entry.charts.map((chart) => [chart.key, say(`tab_${chart.key}`)]);
  put(names[0][0]);
  return [choices(say("chart"), names, names[0][0], put), place];
}

/** The server's card of a file, or what it says against it. */
export async function cardOf(file) {
  const answer = await api.fetchApi(`/dode/file?name=${encodeURIComponent(file)}`);
  return answer.json();
}

/** A link that downloads a file of the library. */
export function downloadLink(file) {
  return el("a", { class: "dode-button", href: exportAddress(file), download: file.split(/[\\/]/).pop(), text: say("download") });
}

/**
 * The elements of a card.
 * @param {{entries: object[], worth?: object, file?: string, author?: string}} data what the server says
 * @param {number} index which of the entries
 * @param {(index: number) => void} choose called when another is chosen
 */
export function card(data, index, choose) {
  const entry = data.entries[index];
  const worth = index === 0 ? data.worth : null;
  const options = data.entries.map((each, i) => el("option", { value: i, text: each.summary, selected: i === index }));
  const which = el("select", { "aria-label": say("which"), onchange: (event) => choose(Number(event.target.value)) }, options);
  const words = [worthWords(worth, entry), errorWords(entry)].filter(Boolean).join(" ");
  return [
    ...warnings(entry.match),
    data.entries.length > 1 ? which : null,
    el("p", { class: "dode-headline", text: gainWords(entry) }),
    words && el("p", { text: words }),
    ...charts(entry),
    facts(entry, data),
  ];
}
