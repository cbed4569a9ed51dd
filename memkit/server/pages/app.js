// Which page is shown, who is signed in, and whose memories are meant.

import { ApiError, get, setUser, signIn, signOut, signedIn, user } from "./api.js";
import { button, field, h, named, tell } from "./dom.js";
import { bank } from "./bank.js";
import { memory } from "./memory.js";
import { ask } from "./ask.js";
import { queue } from "./queue.js";
import { report, reports } from "./reports.js";
import { description } from "./description.js";

const PAGES = [["Bank", "#/", bank], ["Ask", "#/ask", ask], ["Queue", "#/queue", queue],
  ["Reports", "#/reports", reports], ["API", "#/api", description]];
const main = document.getElementById("main");
let leave = () => {};
let turn = 0;

function pageOf(hash) {
  const [, name = "", argument] = hash.split("/");
  if (name === "memory" && argument) return ["Memory", (place) => memory(place, decodeURIComponent(argument))];
  if (name === "reports" && argument) return ["Report", (place) => report(place, decodeURIComponent(argument))];
  const found = PAGES.find(([, address]) => address === `#/${name}`) ?? PAGES[0];
  return [found[0], found[2]];
}

async function show() {
  leave();
  leave = () => {};
  turn += 1;
  const mine = turn;
  if (!signedIn()) return showSignIn();
  const [title, page] = pageOf(location.hash || "#/");
  document.title = `${title} · memkit`;
  drawNavigation();
  const place = h("div", {});
  try {
    const left = await page(place);
    if (mine !== turn) return left?.();
    leave = left ?? (() => {});
    main.replaceChildren(place);
  } catch (error) {
    if (mine !== turn) return undefined;
    failed(error);
  }
  main.setAttribute("data-shown", location.hash || "#/");
  main.focus({ preventScroll: true });
  return undefined;
}

function failed(error) {
  if (error instanceof ApiError && error.status === 401) {
    signOut();
    tell("This key is not valid (any more).");
    showSignIn();
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  const text = error instanceof ApiError ? error.message : "this page could not be shown";
  main.replaceChildren(h("h1", {}, "That did not work"), h("p", { class: "bad", role: "alert" }, text), h("p", {}, h("a", { href: "#/" }, "To the bank")));
}

function drawNavigation() {
  const nav = document.querySelector("nav");
  const [, name = ""] = (location.hash || "#/").split("/");
  const here = name === "memory" ? "#/" : `#/${name}`;
  nav.hidden = false;
  nav.replaceChildren(h("ul", {}, PAGES.map(([title, address]) =>
    h("li", {}, h("a", { href: address, "aria-current": address === here ? "page" : null }, title)))));
  drawWho();
}

async function drawWho() {
  const form = document.querySelector(".who");
  form.hidden = false;
  const [found, status] = await Promise.all(["/users", "/status"].map((path) => get(path).catch(() => ({}))));
  const all = [...new Set(["", ...(found.users ?? []), user()])];
  const itself = status.scope === "user" ? named(status.tenant) : "(the tenant itself)";
  const choice = h("select", { onchange: () => { setUser(choice.value); show(); } },
    all.map((name) => h("option", { value: name, selected: name === user() }, name ? named(name) : itself)));
  const label = h("label", { for: "who" }, "User");
  choice.id = "who";
  form.replaceChildren(label, choice, button("Sign out", () => { signOut(); location.hash = "#/"; show(); }));
}

function showSignIn() {
  document.title = "Sign in · memkit";
  document.querySelector("nav").hidden = true;
  document.querySelector(".who").hidden = true;
  const key = h("input", { type: "password", required: true, autocomplete: "off", spellcheck: "false" });
  const name = h("input", { type: "text", autocomplete: "off" });
  const problem = h("p", { class: "bad", role: "alert" });
  async function enter(event) {
    event.preventDefault();
    signIn(key.value.trim(), name.value); // a name may begin or end with a space
    try {
      await get("/status");
      show();
    } catch (error) {
      signOut();
      problem.textContent = error.message;
      key.focus();
    }
  }
  main.replaceChildren(h("form", { onsubmit: enter },
    h("h1", {}, "Sign in"),
    field("API key", key, "Made by: memkit keys create --tenant NAME, or --user NAME. It stays in this tab."),
    field("User", name, "Of the key's tenant; empty for the tenant's own memories, and for a key of one user."),
    problem,
    h("div", { class: "row" }, h("button", { class: "main" }, "Sign in"))));
  main.setAttribute("data-shown", "sign-in");
}

document.querySelector(".who").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", show);
show();
