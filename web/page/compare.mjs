// Compare: two of the pictures under a slider or in turn, or all three beside each other, with their errors.
import { addPlace, choices, el, short } from "./elements.mjs";
import { picture } from "./pictures.mjs";
import { say } from "./texts.mjs";

const FLICKER = 800; // milliseconds for each picture
const KEYS = ["start", "learned", "reference"];

/** What a picture is, in parts. */
function caption(column) {
  const error = column.error === null ? "" : say("error_is", { n: short(column.error) });
  return [`${say(column.key)} (${column.solver})`, say("evaluations", { n: column.evaluations }), error].filter(Boolean);
}

export function comparePanel(node) {
  const place = addPlace(node, "dode_compare", 380);
  let result = null,
    view = "slider",
    row = 0,
    pair = ["start", "learned"],
    timer = null;

  const column = (key) => result.columns.find((each) => each.key === key);
  const shown = (key, more) => picture(column(key).pictures[row], caption(column(key)).join(" · "), more);
  const named = (key) => el("figcaption", { class: "dode-parts" }, caption(column(key)).map((text) => el("span", { text })));
  const stop = () => {
    clearInterval(timer);
    timer = null;
  };

  function slider() {
    const range = el("input", { type: "range", min: 0, max: 100, value: 50, class: "dode-divide", "aria-label": say("divide") });
    const stage = el("div", { class: "dode-stage" }, shown(pair[1]), shown(pair[0], { class: "dode-over" }), el("div", { class: "dode-line" }), range);
    const move = () => stage.style.setProperty("--part", `${range.value}%`);
    range.addEventListener("input", move);
    move();
    return [stage, el("div", { class: "dode-pair" }, named(pair[0]), named(pair[1]))];
  }

  function flicker() {
    const stage = el("div", { class: "dode-stage" }, shown(pair[1]), shown(pair[0], { class: "dode-turn" }));
    const words = el("p", { class: "dode-quiet", role: "status" });
    const turn = () => {
      const first = stage.classList.toggle("dode-first");
      words.textContent = caption(column(pair[first ? 0 : 1])).join(" · ");
    };
    turn();
    const button = el("button", { type: "button", class: "dode-button" });
    const go = (on) => {
      stop();
      if (on) timer = setInterval(turn, FLICKER);
      button.textContent = say(on ? "pause" : "go_on");
    };
    button.addEventListener("click", () => go(timer === null));
    go(!matchMedia("(prefers-reduced-motion: reduce)").matches);
    return [stage, words, button];
  }

  const beside = () => [el("div", { class: "dode-beside" }, KEYS.map((key) => el("figure", {}, shown(key), named(key))))];

  function batch() {
    const count = result.columns[0].pictures.length;
    if (count < 2) return null;
    const go = (by) => {
      row = (row + by + count) % count;
      draw();
    };
    return el(
      "div",
      { class: "dode-batch" },
      el("button", { type: "button", "aria-label": say("previous"), text: "‹", onclick: () => go(-1) }),
      el("span", { text: say("picture", { n: row + 1, count }) }),
      el("button", { type: "button", "aria-label": say("next"), text: "›", onclick: () => go(1) }),
    );
  }

  function pick(side) {
    const options = KEYS.map((key) => el("option", { value: key, text: say(key), selected: key === pair[side] }));
    const label = say(side ? "right" : "left");
    const change = (event) => {
      pair[side] = event.target.value;
      draw();
    };
    return el("label", {}, `${label} `, el("select", { "aria-label": label, onchange: change }, options));
  }

  function draw() {
    stop();
    const views = choices(say("view"), ["slider", "flicker", "beside"].map((key) => [key, say(key)]), view, (key) => {
      view = key;
      draw();
      place.element.querySelector('[aria-checked="true"]')?.focus();
    });
    const body = { slider, flicker, beside }[view]();
    place.put(views, view === "beside" ? null : el("div", { class: "dode-picks" }, pick(0), pick(1)), ...body, batch());
  }

  const removed = node.onRemoved;
  node.onRemoved = function () {
    stop();
    return removed?.apply(this, arguments);
  };
  place.put(el("p", { class: "dode-quiet", text: say("nothing_compared") }));
  const panel = {
    kind: "compared",
    filled: false,
    show(shown) {
      if (!shown.columns) return;
      panel.filled = true;
      result = shown;
      row = Math.min(row, shown.columns[0].pictures.length - 1);
      draw();
    },
  };
  return panel;
}
