/** Which of the views is shown: the one that the address names behind `#`. */

import { byId } from "./elements.js";

const NAMES = ["try", "compare", "judge", "serve"];

/** `shown[name]` is called when its view is shown, `hidden[name]` when another one is. */
export function startViews(shown = {}, hidden = {}) {
  let current = null;
  const show = () => {
    const asked = location.hash.slice(1);
    const name = NAMES.includes(asked) ? asked : NAMES[0];
    if (name === current) return;
    for (const each of NAMES) {
      byId(each).hidden = each !== name;
      const link = document.querySelector(`nav a[href="#${each}"]`);
      if (each === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    hidden[current]?.();
    if (current) byId(name).querySelector("h1").focus();
    current = name;
    shown[name]?.();
  };
  addEventListener("hashchange", show);
  show();
}
