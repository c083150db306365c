// Small helpers to build elements, and the widget that holds them on a node.

/** An element: el("p", { class: "x", onclick: f, text: "y" }, child, …). */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of a drawing, as el. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * A place for elements at the end of a node. It is as high as what is in it, in both renderers, and is saved nowhere.
 * @returns {{put: (...elements: Element[]) => void, element: HTMLElement}}
 */
export function addPlace(node, name, width) {
  const inner = el("div", { class: "dode-inner" });
  const outer = el("div", { class: "dode-panel" }, inner);
  let height = 24;
  const widget = node.addDOMWidget(name, "dode", outer, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // the host's properties panel would give it that panel's width
    margin: 6,
    getMinHeight: () => height + 12,
  });
  widget.serialize = false;
  // Nodes keep the width their owner gives them, but for what cannot be read in less.
  const widen = () => node.size[0] < width && node.setSize([width, node.size[1]]);
  const fit = () => {
    const wanted = Math.ceil(inner.offsetHeight);
    if (!wanted || Math.abs(wanted - height) < 2) return;
    const lost = height - wanted;
    height = wanted;
    const least = node.computeSize()[1];
    if (node.size[1] < least || lost > 0) node.setSize([node.size[0], Math.max(least, node.size[1] - Math.max(lost, 0))]);
    node.graph?.setDirtyCanvas?.(true, true);
  };
  new ResizeObserver(fit).observe(inner);
  for (const kind of ["wheel", "pointerdown"])
    outer.addEventListener(kind, (event) => event.target.closest("button, select, input, summary, details[open] > div") && event.stopPropagation());
  return {
    element: inner,
    put(...elements) {
      widen();
      inner.replaceChildren(...elements.flat().filter(Boolean));
      requestAnimationFrame(fit);
    },
  };
}

/** Buttons of which one is chosen; arrow keys move between them. */
export function choices(label, names, chosen, choose) {
  const buttons = names.map(([key, text]) =>
    el("button", { type: "button", role: "radio", "aria-checked": String(key === chosen), tabindex: key === chosen ? 0 : -1, text, onclick: () => pick(key, false) }),
  );
  function pick(key, focus) {
    names.forEach(([name], i) => {
      buttons[i].setAttribute("aria-checked", String(name === key));
      buttons[i].tabIndex = name === key ? 0 : -1;
      if (name === key && focus) buttons[i].focus();
    });
    choose(key);
  }
  const group = el("div", { class: "dode-choices", role: "radiogroup", "aria-label": label }, buttons);
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const now = buttons.findIndex((button) => button.getAttribute("aria-checked") === "true");
    pick(names[(now + by + names.length) % names.length][0], true);
  });
  return group;
}

/** A text whose paths and names may break after their separators. */
export function breakable(text) {
  return String(text).split(/(?<=[\\/._-])/).flatMap((part) => [part, document.createElement("wbr")]);
}

/** A number as people read it. */
export function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}
