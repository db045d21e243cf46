/** The table in which documents are written, pasted, dropped and removed. */

import { readFile, readText, summary } from "./documents.js";
import { change, draft, draftIsKept, filled, onDraft } from "./draft.js";
import { byId, element, number, showRows } from "./elements.js";
import { SAMPLE } from "./sample.js";
import { wordsOf } from "./server.js";

export function startDocuments() {
  const paste = byId("paste");
  paste.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text/plain");
    if (!text.includes("\n")) return;
    event.preventDefault();
    addFrom(() => readText(text));
  });
  paste.addEventListener("input", () => (byId("add").hidden = !paste.value.trim()));
  byId("add").addEventListener("click", addTyped);
  byId("open-file").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => addFiles([...byId("file").files]));
  byId("sample").addEventListener("click", () =>
    replace({ ...structuredClone(SAMPLE), sample: true }, "The sample is here."),
  );
  byId("clear").addEventListener("click", () => {
    replace({ documents: [] }, "All documents were removed.");
    byId("paste").focus();
  });
  const drop = byId("try");
  drop.addEventListener("dragover", (event) => (event.preventDefault(), byId("drop").classList.add("over")));
  drop.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    const { files } = event.dataTransfer;
    if (files.length) addFiles([...files]);
    else addFrom(() => readText(event.dataTransfer.getData("text/plain")));
  });
  onDraft(showCount);
  showDocuments();
}

async function addTyped() {
  const text = byId("paste").value;
  byId("paste").value = "";
  byId("add").hidden = true;
  await addFrom(() => readText(text));
  byId("paste").focus();
}

async function addFiles(files) {
  for (const file of files) await addFrom(() => readFile(file));
  byId("file").value = "";
}

/** Behind what is there; instead of it where that is only the sample. */
async function addFrom(read) {
  try {
    const { documents, note } = await read();
    if (!documents.length) return;
    const said = `${summary(documents)} ${draft.sample ? "instead of the sample" : "added"}. ${note}`;
    replace(
      { documents: draft.sample ? documents : [...filled(), ...documents], query: draft.sample ? "" : draft.query },
      said,
    );
    if (!draft.query) byId("query").focus();
  } catch (error) {
    say(wordsOf(error));
  }
}

/** Changes documents and query, and offers to take it back. */
function replace(values, said) {
  const { query, documents, sample } = draft;
  const set = (wanted) => {
    change(wanted);
    byId("query").value = draft.query;
    showDocuments();
  };
  set(values);
  const undo = element("button", { type: "button", class: "link" }, "Undo");
  undo.addEventListener("click", () => (set({ query, documents, sample }), say("")));
  say(said, undo);
}

function say(text, ...more) {
  byId("document-note").replaceChildren(text, " ", ...more);
  byId("document-note").hidden = !text;
}

function showDocuments() {
  const rows = [...draft.documents];
  showRows(byId("documents").tBodies[0], byId("more-documents"), rows, documentRow);
  showCount();
}

function showCount() {
  const count = filled().length;
  const kept = draftIsKept ? "" : ", too long to be kept when this tab is closed";
  byId("document-count").textContent = `${number(count)}${kept}`;
}

function documentRow(row, at) {
  const name = `Document ${at + 1}`;
  const text = element("textarea", {
    rows: "1",
    value: row.text,
    "aria-label": name,
    spellcheck: "false",
    dir: "auto",
  });
  text.addEventListener("input", () => {
    row.text = text.value;
    change({ documents: draft.documents });
  });
  const line = element(
    "tr",
    {},
    element("td", { class: "number quiet" }, String(at + 1)),
    element("td", { class: "text" }, text),
    element(
      "td",
      {},
      element(
        "button",
        {
          type: "button",
          class: "link remove",
          "aria-label": `Remove document ${at + 1}`,
          title: "Remove",
          onclick: () => remove(row, line),
        },
        "×",
      ),
    ),
  );
  return line;
}

function remove(row, line) {
  const next = (line.nextElementSibling ?? line.previousElementSibling)?.querySelector("button") ?? byId("paste");
  const at = draft.documents.indexOf(row);
  change({ documents: draft.documents.toSpliced(at, 1) });
  line.remove();
  [...byId("documents").tBodies[0].rows].forEach((each, number) => (each.cells[0].textContent = String(number + 1)));
  next.focus();
  const undo = element("button", { type: "button", class: "link" }, "Undo");
  undo.addEventListener(
    "click",
    () => (change({ documents: draft.documents.toSpliced(at, 0, row) }), showDocuments(), say("")),
  );
  say(`Document ${at + 1} was removed.`, undo);
}
