// Distill Sampler: what the fit is doing, a button to stop it and to keep what it has, and afterwards what it made.
import { api } from "../../../scripts/api.js";
import { card, cardOf, downloadLink } from "./card.mjs";
import { progressChart } from "./charts.mjs";
import { addPlace, breakable, el, short } from "./elements.mjs";
import { knobs } from "./knobs.mjs";
import { held } from "./pictures.mjs";
import { problem, problemOf } from "./problems.mjs";
import { shareButtons } from "./share.mjs";
import { say } from "./texts.mjs";

const ORDER = ["teacher", "search", "student", "refine", "check", "compare", "pictures"];

function timeLeft(seconds) {
  if (seconds === null || seconds === undefined) return "";
  return seconds < 90 ? say("seconds_left", { n: Math.round(seconds) }) : say("minutes_left", { n: Math.round(seconds / 60) });
}

/** A button that ends the fit of these progress events with what it has. It is there once there is something to keep. */
function stopButton() {
  let place = null,
    asked = false;
  const said = el("p", { class: "dode-quiet", role: "status", hidden: true });
  const button = el("button", { type: "button", class: "dode-stop", hidden: true, text: say("stop_keep"), onclick: ask });
  // Not disabled, which would take the keyboard's focus away.
  function show(stopping) {
    asked = stopping;
    button.setAttribute("aria-disabled", String(stopping));
    button.textContent = say(stopping ? "stopping" : "stop_keep");
  }
  async function ask() {
    if (asked) return;
    show(true);
    said.hidden = true;
    const query = new URLSearchParams(Object.entries(place).filter(([, value]) => value)); // what names no workflow runs in none
    let refused;
    try {
      const answer = await api.fetchApi(`/dode/stop?${query}`, { method: "POST" });
      refused = answer.ok ? null : (problemOf(await answer.json().catch(() => null)) ?? answer.statusText);
    } catch (error) {
      refused = error.message;
    }
    if (!refused) return;
    show(false);
    said.textContent = refused;
    said.hidden = false;
  }
  return {
    elements: [button, said],
    update(state) {
      place = { node: state.node, workflow: state.workflow };
      button.hidden = !state.can_stop;
      if (state.stopping) show(true);
    },
  };
}

/** The elements of a run, made once and updated: a screen reader hears the stage when it changes, not every number. */
function running() {
  const stages = el("ol", { class: "dode-stages" });
  const fill = el("div");
  const bar = el("div", { class: "dode-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": say("progress") }, fill);
  const numbers = el("p", { class: "dode-quiet" });
  const heard = el("p", { class: "dode-heard", role: "status" });
  const curve = el("div");
  const preview = el("img", { class: "dode-preview", alt: say("preview"), hidden: true });
  const stop = stopButton();
  let stage,
    drawn = 0;
  return {
    elements: [stages, bar, numbers, ...stop.elements, heard, curve, preview],
    update(state) {
      const names = state.stages.map((each) => each.name).sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
      const begun = Object.fromEntries(state.stages.map((each) => [each.name, each.done > 0])); // and over, if it comes before the current one
      stages.replaceChildren(
        ...names.map((name) => el("li", { "aria-current": name === state.stage ? "step" : null, class: begun[name] && names.indexOf(name) < names.indexOf(state.stage) ? "dode-done" : "", text: say(`stage_${name}`) })),
      );
      const percent = Math.min(100, Math.round((100 * state.done) / Math.max(state.total, 1)));
      fill.style.width = `${percent}%`;
      bar.setAttribute("aria-valuenow", percent);
      const whole = state.pictures > 0 && say("pictures", { n: state.pictures });
      numbers.textContent = [say("part", { percent }), timeLeft(state.seconds_left), whole].filter(Boolean).join(" · ");
      stop.update(state);
      if (state.picture) {
        preview.src = state.picture;
        preview.hidden = false;
      }
      if (stage !== state.stage) heard.textContent = say(`stage_${state.stage}`);
      stage = state.stage;
      if (state.curve.length !== drawn) {
        drawn = state.curve.length;
        const chart = drawn && progressChart(state.curve);
        if (chart) curve.replaceChildren(chart);
      }
    },
  };
}

/** That a fit was stopped, and what it has not come to: entries of steps and cfg. */
function stoppedWords(missing) {
  if (!missing) return null;
  const left = missing.map((each) => say("missing_one", { steps: each.steps, cfg: short(each.cfg) })).join(say("comma"));
  return el("p", { class: "dode-warning", role: "note", text: [say("stopped_early"), left && say("missing", { left })].filter(Boolean).join(" ") });
}

export function distillPanel(node) {
  const settings = knobs(node);
  const place = addPlace(node, "dode_result", 340);
  const put = (...elements) => place.put(settings.element, ...elements);
  let live = null;
  const panel = {
    kind: "distilled",
    filled: false,
    loaded: settings.update,
    rendered: settings.update, // the other renderer shows the node
    progress(state) {
      if (!live) {
        live = running();
        put(...live.elements);
      }
      panel.filled = true;
      live.update(state);
    },
    show(result, index = 0) {
      if (!result.entries) return;
      live = null;
      panel.filled = true;
      // The one thing that is saved with the workflow: which file to show when the server has forgotten the run.
      if (result.file) node.properties.dode_file = result.file;
      else delete node.properties.dode_file;
      const lost = result.problem && !result.file;
      const where = result.problem ? problem("NotSaved", result.problem) : result.file ? say(result.reused ? "reused" : "saved", { file: result.path ?? result.file }) : say("not_saved");
      const path = el("p", { class: lost ? "dode-misfit" : "dode-path", role: lost ? "alert" : null }, breakable(where));
      const cost = result.seconds === undefined ? null : el("p", { class: "dode-quiet", text: [say("cost", { ...result, seconds: Math.round(result.seconds) }), result.prompts > 1 && say("prompts", { n: result.prompts })].filter(Boolean).join(" · ") });
      const actions = result.file ? el("div", { class: "dode-actions" }, downloadLink(result.file), shareButtons(result.file, index, () => place.element)) : null;
      put(stoppedWords(result.stopped), ...card(result, index, (i) => panel.show(result, i)), result.pictures ? held(result.pictures) : null, path, cost, actions);
    },
    failed(detail) {
      live = null;
      panel.filled = true;
      const message = detail?.exception_message && problem(detail.exception_type, detail.exception_message);
      put(el("p", { class: message ? "dode-misfit" : "dode-quiet", role: "alert", text: message ? say("failed", { message }) : say("stopped") }));
    },
    async nothing() {
      const file = node.properties.dode_file;
      const answer = file ? await cardOf(file) : null;
      if (answer?.entries && !panel.filled) panel.show(answer);
    },
  };
  put(el("p", { class: "dode-quiet", text: say("waiting") }));
  return panel;
}
