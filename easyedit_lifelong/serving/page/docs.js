"use strict";

/** Return an element with a class, texts and other elements. */
function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.flat(Infinity));
  return made;
}

/** Return a text as elements: the parts between backticks are code. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", "", part) : part));
}

function link(target, text) {
  const made = element("a", "", text);
  made.href = `#${target}`;
  return made;
}

/** Return lists of elements as one list, with a separator between them. */
function joined(lists, separator) {
  return lists.flatMap((list, index) => (index ? [separator, ...list] : list));
}

/** Return the type of a schema in words, with links to the bodies that it names. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [link(`body-${name}`, name)];
  }
  if (schema.anyOf) return joined(schema.anyOf.map(typeOf), " or ");
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items ?? {}), limits(schema, "minItems", "maxItems")];
  if (schema.type === "string") return ["string", limits(schema, "minLength", "maxLength")];
  if (schema.type) return [schema.type, limits(schema, "minimum", "maximum")];
  return ["any value"];
}

/** Return the limits of a schema in words. */
function limits(schema, least, most) {
  const words = [];
  if (least in schema) words.push(`at least ${schema[least]}`);
  if (most in schema) words.push(`at most ${schema[most]}`);
  if ("exclusiveMaximum" in schema) words.push(`below ${schema.exclusiveMaximum}`);
  if ("pattern" in schema) words.push(`like ${schema.pattern}`);
  return words.length ? ` (${words.join(", ")})` : "";
}

/** Return the list of fields: of an object's schema, or of parameters. */
function fieldList(fields) {
  return element("dl", "fields", fields.map(({ name, place, required, schema, description }) => [
    element("dt", "", element("code", "", name), ` ${place ?? ""}${required ? "" : " optional"}`.replace(/,$/, "")),
    element("dd", "", ...typeOf(schema), ...(description ? ["; ", ...prose(description)] : [])),
  ]));
}

/** Return the section of an operation. */
function operationSection(path, method, operation) {
  const parts = [element("h3", "", element("code", "", `${method.toUpperCase()} ${path}`))];
  parts.push(element("p", "", ...prose(operation.description ?? operation.summary ?? "")));
  if (!operation.security) parts.push(element("p", "", "Needs no key."));
  if (operation.parameters?.length) {
    const fields = operation.parameters.map((entry) => ({ ...entry, place: `in the ${entry.in},` }));
    parts.push(element("h4", "", "Parameters"), fieldList(fields));
  }
  const body = operation.requestBody?.content["application/json"].schema;
  if (body) parts.push(element("p", "", "Body: ", ...typeOf(body)));
  parts.push(element("ul", "answers-list", Object.entries(operation.responses).map(([status, answer]) => {
    const kinds = Object.entries(answer.content ?? {}).map(([kind, { schema }]) => [
      ...typeOf(schema["x-event-schema"] ?? schema), ` (${kind})`,
    ]);
    return element("li", "", element("span", "", `${status === "default" ? "errors" : status}: `, ...joined(kinds, ", ")));
  })));
  const section = element("section", "", ...parts);
  section.id = idOf(path, method);
  return section;
}

function idOf(path, method) {
  return `${method}-${path}`;
}

/** Return the section of a body. */
function bodySection(name, schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([field, entry]) => ({
    name: field, required: required.has(field), schema: entry, description: entry.description,
  }));
  const nested = fields.filter(({ schema: { properties } }) => properties).map(({ name: field, schema: inner }) =>
    fieldList(Object.entries(inner.properties).map(([part, entry]) => (
      { name: `${field}.${part}`, required: (inner.required ?? []).includes(part), schema: entry }
    ))));
  const about = schema.description ? [element("p", "", ...prose(schema.description.replaceAll("``", "`")))] : [];
  const section = element("section", "", element("h3", "", name), ...about, fieldList(fields), ...nested);
  section.id = `body-${name}`;
  return section;
}

/** Show the routes and the bodies of the server's OpenAPI document. */
async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: status ${answer.status}`);
  const api = await answer.json();
  document.getElementById("title").textContent = `API of ${api.info.title} ${api.info.version}`;
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [path, method, operation]));
  document.getElementById("routes").replaceChildren(...operations.map(([path, method, operation]) =>
    element("li", "", element("span", "", link(idOf(path, method), `${method.toUpperCase()} ${path}`),
      element("small", "detail", ...prose((operation.description ?? "").split(/(?<=\.)\s/)[0]))))));
  document.getElementById("operations").replaceChildren(...operations.map((entry) => operationSection(...entry)));
  document.getElementById("schemas").replaceChildren(...Object.entries(api.components.schemas).sort()
    .map(([name, schema]) => bodySection(name, schema)));
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

show().catch((error) => {
  const status = document.getElementById("status");
  status.textContent = error.message;
  status.classList.add("bad");
});
