// What people give along with a file: its recipe as text, and a card as a picture. The file itself stays what it is.
import { cardOf } from "./card.mjs";
import { el } from "./elements.mjs";
import { problemOf } from "./problems.mjs";
import { say } from "./texts.mjs";

const [WIDTH, HEIGHT, EDGE] = [1200, 630, 48];
const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "text-anchor"];

/** Buttons for a file and one of its samplers; panel is the element that shows its card. */
export function shareButtons(file, index, panel) {
  const status = el("span", { class: "dode-quiet", role: "status" });
  const attempt = (action, said) => async () => {
    try {
      await action();
      status.textContent = say(said);
    } catch (error) {
      status.textContent = error.message;
    }
  };
  const copy = async () => copyText(await recipeOf(file, index));
  const draw = async () => save(await cardPicture(panel(), file), `${file.split(/[\\/]/).pop().replace(/\.safetensors$/, "")}.png`);
  return [
    el("button", { type: "button", class: "dode-button", text: say("copy_recipe"), onclick: attempt(copy, "copied") }),
    el("button", { type: "button", class: "dode-button", text: say("card_picture"), onclick: attempt(draw, "card_made") }),
    status,
  ];
}

/** Over plain HTTP from another machine a page has the older way only. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = el("textarea", { text, style: "position:fixed;opacity:0" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error(say("not_copied"));
}

async function recipeOf(file, index) {
  const card = await cardOf(file);
  if (!card.entries?.[index]) throw new Error(problemOf(card) ?? say("nothing_found"));
  return `${file}\n${card.entries[index].text}`;
}

function save(blob, name) {
  const href = URL.createObjectURL(blob);
  el("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

/** A drawing as an image: its styles go with it, since the page's style sheet does not. */
async function imageOf(drawing) {
  const copy = drawing.cloneNode(true);
  const from = [drawing, ...drawing.querySelectorAll("*")],
    to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((each, i) => {
    const style = getComputedStyle(each);
    to[i].setAttribute("style", STYLES.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    to[i].removeAttribute("class");
  });
  const [, , width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
  copy.setAttribute("width", width * 2);
  copy.setAttribute("height", height * 2);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  return image;
}

/** Write a text in lines of at most this width; returns where the next one goes. */
function write(context, text, x, y, width, size, weight = 400) {
  context.font = `${weight} ${size}px Inter, system-ui, sans-serif`;
  const parts = /\s/.test(text) ? text.split(/(?<=\s)/) : [...text];
  let line = "";
  for (const part of parts) {
    if (line && context.measureText(line + part).width > width) {
      context.fillText(line, x, y);
      [line, y] = [part, y + size * 1.3];
    } else line += part;
  }
  context.fillText(line, x, y);
  return y + size * 1.3;
}

/** The card as a picture: what it is worth, its chart, its held-out samples where they are shown, and for which model it is. */
export async function cardPicture(panel, file) {
  const style = getComputedStyle(panel.closest(".dode-panel"));
  const colour = (name) => {
    const probe = panel.appendChild(el("i", { style: `color:${name}` }));
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const canvas = el("canvas", { width: WIDTH, height: HEIGHT });
  const context = canvas.getContext("2d");
  const light = colour("var(--dode-text)").match(/[\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) < 384;
  context.fillStyle = light ? "#ffffff" : "#1b1b1f";
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.textBaseline = "top";
  context.fillStyle = style.color;
  let y = write(context, panel.querySelector(".dode-headline").textContent, EDGE, EDGE, WIDTH - 2 * EDGE, 38, 600) + 8;
  for (const words of panel.querySelectorAll(".dode-headline + p")) y = write(context, words.textContent, EDGE, y, WIDTH - 2 * EDGE, 22) + 12;
  const room = HEIGHT - EDGE - 70 - y;
  const chart = await imageOf(panel.querySelector(".dode-plot"));
  const scale = Math.min(620 / chart.width, room / chart.height);
  context.drawImage(chart, EDGE, y, chart.width * scale, chart.height * scale);
  const pictures = [...panel.querySelectorAll(".dode-held img")].filter((image) => image.naturalWidth);
  const rows = Math.ceil(pictures.length / 3);
  const side = rows ? Math.min((WIDTH - EDGE - 720) / 3 - 6, (room - 26) / rows - 6) : 0;
  [...panel.querySelectorAll(".dode-held span")].forEach((head, i) => rows && write(context, head.textContent, 720 + i * (side + 6), y, side, 17));
  context.imageSmoothingEnabled = !pictures.some((image) => image.naturalWidth < 128);
  pictures.forEach((image, i) => context.drawImage(image, 720 + (i % 3) * (side + 6), y + 26 + Math.floor(i / 3) * (side + 6), side, side));
  context.fillStyle = colour("var(--dode-quiet)");
  const facts = [...panel.querySelectorAll(".dode-facts dd")].slice(0, 3).map((each) => each.textContent);
  write(context, `${file.split(/[\\/]/).pop()} · ${facts.join(" · ")}`, EDGE, HEIGHT - EDGE - 44, WIDTH - 2 * EDGE, 20);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
