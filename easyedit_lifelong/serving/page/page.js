"use strict";

const $ = (id) => document.getElementById(id);
let model = "";

/** Send a request; return the answer's JSON with its version, or throw an error with the server's message. */
async function call(method, path, body) {
  const headers = {};
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error.message);
  return { ...content, editsVersion: answer.headers.get("X-Edits-Version") };
}

/** Run an action of a button: nothing else can be clicked meanwhile; an error is shown. */
async function act(action) {
  const buttons = [...document.querySelectorAll("button:not(:disabled)")];
  buttons.forEach((button) => { button.disabled = true; });
  report("");
  try {
    await action();
  } catch (error) {
    report(error.message, true);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

function report(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isError);
  if (text) $("status").scrollIntoView({ block: "nearest" });
}

/** Return an entry of a list: a text, a line of details, and perhaps a button. */
function entry(text, detail, label, action) {
  const item = document.createElement("li");
  const words = document.createElement("span");
  const small = document.createElement("small");
  words.textContent = text;
  small.className = "detail";
  small.textContent = detail;
  words.append(small);
  item.append(words);
  if (label) {
    const button = document.createElement("button");
    button.className = "small";
    button.textContent = label;
    button.setAttribute("aria-label", `${label}: ${text}`);
    button.addEventListener("click", () => act(action));
    item.append(button);
  }
  return item;
}

/** Show the present edits and versions. */
async function refresh() {
  const [models, edits, versions] = await Promise.all(
    ["/v1/models", "/v1/edits?limit=100", "/v1/versions?limit=50"].map((path) => call("GET", path)),
  );
  model = models.data[0].id;
  $("model").textContent = model;
  $("version").textContent = edits.version;
  $("count").textContent = countOf(edits.total);
  $("no-edits").hidden = edits.total > 0;
  $("edits").replaceChildren(...edits.data.map((edit) => entry(
    `${edit.question === undefined ? edit.prompt : `${edit.question} (chat)`} → ${edit.target_new}`,
    `${edit.id}, version ${edit.version}, ${edit.who}, ${clock(edit.time)}${edit.learned ? "" : ", not learned"}`,
    "Delete",
    () => remove(edit.id),
  )));
  $("more-edits").textContent = latest(edits);
  $("more-versions").textContent = latest(versions);
  $("versions").replaceChildren(...versions.data.map((version, index) => entry(
    `${version.version}: ${describe(version)}`,
    `${countOf(version.count)}${version.who ? `, ${version.who}, ${clock(version.time)}` : ""}`,
    index > 0 && "Roll back",
    () => rollBack(version.version),
  )));
}

function countOf(number) {
  return `${number} edit${number === 1 ? "" : "s"}`;
}

/** Say how many entries of a list are shown, if there are more. */
function latest(list) {
  return list.total > list.data.length ? `These are the latest ${list.data.length} of ${list.total}.` : "";
}

function clock(time) {
  return `${time.slice(0, 19).replace("T", " ")} UTC`;
}

function describe(version) {
  if (version.action === "base") return "base model";
  if (version.action === "rollback") return `rollback to version ${version.to}`;
  return `${version.action} ${version.edits.join(", ")}`;
}

/** Ask the base model and the edited one, and explain the edited answer. */
async function ask() {
  const prompt = $("prompt").value;
  const complete = (name) => call("POST", "/v1/completions", {
    model: name, prompt, temperature: 0, max_tokens: Number($("tokens").value),
  });
  const [base, edited] = await Promise.all([complete(`${model}@base`), complete(model)]);
  $("base").textContent = base.choices[0].text;
  $("edited").textContent = edited.choices[0].text;
  $("edited-version").textContent = `, version ${edited.editsVersion}`;
  $("why").textContent = "";
  $("explanation").hidden = true;
  await explain(prompt);
}

/** Show which edits act on a prompt, or why the method can't tell. */
async function explain(prompt) {
  let explanation;
  try {
    explanation = await call("POST", "/v1/explain", { prompt });
  } catch (error) {
    $("why").textContent = error.message;
    return;
  }
  const names = explanation.answered_by;
  // A layer without this field does not know which edit answered.
  const layers = Object.values(explanation.layers).filter(Array.isArray).flat();
  const isKnown = layers.every((layer) => "answered_by" in layer);
  if (names.length) $("why").textContent = `Answered by ${names.join(", ")}.`;
  else if (isKnown) $("why").textContent = "No edit answered.";
  $("tokens-explained").textContent = explanation.text;
  $("explanation").hidden = false;
}

async function edit() {
  const body = { prompt: $("edit-prompt").value, target_new: $("target").value };
  if ($("subject").value) body.subject = $("subject").value;
  const made = await call("POST", "/v1/edits", body);
  const replaced = made.superseded.length ? ` It supersedes ${made.superseded.join(", ")}.` : "";
  await refresh();
  report(`${made.id} is version ${made.version}: ${made.learned ? "learned" : "not learned"}.${replaced}`);
}

async function remove(id) {
  const answer = await call("DELETE", `/v1/edits/${encodeURIComponent(id)}`);
  await refresh();
  report(`${id} is deleted; this is version ${answer.version}.`);
}

async function rollBack(to) {
  const answer = await call("POST", "/v1/edits/rollback", { to });
  await refresh();
  report(`The edits of version ${to} are restored, as version ${answer.version}.`);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); act(ask); });
$("edit").addEventListener("submit", (event) => { event.preventDefault(); act(edit); });
$("prompt").addEventListener("change", () => { $("edit-prompt").value = $("prompt").value; });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("key").value = sessionStorage.getItem("key") || "";
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); act(refresh); });
$("edit-prompt").value = $("prompt").value;
act(refresh);
