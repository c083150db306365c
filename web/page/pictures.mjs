// Pictures that the server keeps in a folder which it empties when it starts.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { el } from "./elements.mjs";
import { say } from "./texts.mjs";

function address(file) {
  return api.apiURL(`/view?${new URLSearchParams(file)}${app.getPreviewFormatParam?.() ?? ""}`);
}

/** A picture; where it is gone, a sentence says so in the picture's place, once for all that stand there. */
export function picture(file, words, more = {}) {
  const image = el("img", { src: address(file), alt: words, draggable: "false", ...more });
  image.addEventListener("error", () => {
    const around = image.closest(".dode-stage, .dode-beside") ?? image.parentElement;
    if (!around) return;
    around.classList.add("dode-gone");
    around.replaceChildren(el("p", { text: say("picture_gone") }));
  });
  image.addEventListener("load", () => image.classList.toggle("dode-small", image.naturalWidth < 128));
  return image;
}

/**
 * The pictures of some samples in columns.
 * @param {{key: string, pictures: object[]}[]} columns
 */
export function held(columns) {
  const rows = columns[0].pictures.map((_, row) => columns.map((column) => picture(column.pictures[row], `${say(column.key)} ${row + 1}`)));
  const heads = columns.map((column) => el("span", { text: say(column.key) }));
  return el("figure", { class: "dode-held" }, el("div", { class: "dode-beside" }, heads, rows.flat()), el("figcaption", { text: say(rows.length > 1 ? "held_pictures" : "held_picture") }));
}
