// The card of distilled parameters: for which model, how many steps, by whom, how much better; with charts.
import { api } from "../../../scripts/api.js";
import { barChart, errorChart } from "./charts.mjs";
import { choices, el, short } from "./elements.mjs";
import { say } from "./texts.mjs";

/** What a sampler is worth, in one sentence; null where it was not measured. */
export function worthWords(worth, entry) {
  if (!worth) return null;
  const ours = entry.evaluations,
    solver = worth.method;
  if (worth.steps === null) return say("closer", { ours, theirs: worth.most, solver });
  if (worth.steps <= ours) return say("no_gain", { ours, theirs: worth.steps, solver });
  return say("closer", { ours, theirs: worth.steps - 1, solver });
}

function errorWords(report) {
  if (!report) return say("no_report");
  const change = report.before > 0 ? `${report.after <= report.before ? "−" : "+"}${Math.abs(Math.round(100 * (report.after / report.before - 1)))}\u00a0%` : "–";
  return say("error_fell", { n: report.held_out, before: short(report.before), after: short(report.after), change });
}

function warnings(match) {
  const lines = [];
  if (match?.hard?.length) lines.push(el("p", { class: "dode-misfit", role: "alert", text: `⚠ ${say("misfit", { why: match.hard.join("; ") })}` }));
  if (match?.soft?.length) lines.push(el("p", { class: "dode-warning", role: "note", text: `⚠ ${say("loose", { why: match.soft.join("; ") })}` }));
  return lines;
}

function facts(entry, file) {
  const { model, report } = entry;
  const described = [model.name || say("any_model"), model.family, model.prediction, model.channels && say("channels", { n: model.channels })];
  const rows = [
    ["model", described.filter(Boolean).join(", ")],
    ["solver", [entry.solver, say("steps", entry), entry.guidance !== null && say("guidance", { n: short(entry.guidance) })].filter(Boolean).join(", ")],
    ["by", file?.author],
    ["licence", file?.licence],
    ["measured", report && say("samples", { samples: report.samples, held: report.held_out })],
    ["teacher", report && say("teacher_words", { method: report.teacher, error: short(report.teacher_error) })],
    ["notes", file?.notes],
  ];
  return el("dl", { class: "dode-facts" }, rows.filter(([, text]) => text).flatMap(([key, text]) => [el("dt", { text: say(key) }), el("dd", { text })]));
}

/** Per step where that is known, on the same noise levels; else at the end only, as the fit's own held-out samples say. */
function errorsOf(entry, worth) {
  const source = worth?.steps_before?.length ? worth : entry.report;
  if (!source) return null;
  const { steps_before: before, steps_after: after } = source;
  if (!before?.length) return null;
  const numbers = before.map((_, i) => entry.steps - before.length + i + 1);
  const title = say(before.length > 1 ? "error_title" : "error_end_title");
  return errorChart({ title, rowName: say("step"), numbers, before, after, names: [say("before"), say("after")] });
}

function sigmasOf(entry) {
  const levels = entry.sigmas.filter((sigma) => sigma > 0);
  const numbers = levels.map((_, i) => i + 1);
  return errorChart({ title: say("sigma_title"), rowName: say("step"), numbers, before: levels.map(() => null), after: levels, names: ["", "σ"] });
}

function charts(entry, worth) {
  const made = {
    errors: () => errorsOf(entry, worth),
    lambda: () => barChart({ title: say("lambda_title"), rowName: say("step"), name: "λ", table: entry.lambda }),
    gamma: () => entry.gamma && barChart({ title: say("gamma_title"), rowName: say("step"), name: "γ", table: entry.gamma }),
    sigma: () => sigmasOf(entry),
  };
  const shown = Object.keys(made).filter((key) => (key === "errors" ? (worth ?? entry.report) : key !== "gamma" || entry.gamma));
  const place = el("div");
  const put = (key) => place.replaceChildren(...[made[key]()].filter(Boolean));
  put(shown[0]);
  return [choices(say("chart"), shown.map((key) => [key, say(key)]), shown[0], put), place];
}

/** The server's card of a file, or what it says against it. */
export async function cardOf(file) {
  const answer = await api.fetchApi(`/dode/file?name=${encodeURIComponent(file)}`);
  return answer.json();
}

/** A link that downloads a file of the library. */
export function downloadLink(file) {
  const href = api.apiURL(`/dode/download?name=${encodeURIComponent(file)}`);
  return el("a", { class: "dode-button", href, download: file.split(/[\\/]/).pop(), text: say("download") });
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
  const words = worthWords(worth, entry);
  return [
    ...warnings(entry.match),
    data.entries.length > 1 ? which : null,
    words && el("p", { class: "dode-headline", text: words }),
    el("p", { class: words ? "" : "dode-headline", text: errorWords(entry.report) }),
    ...charts(entry, worth),
    facts(entry, data),
  ];
}
