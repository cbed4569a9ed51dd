// The API, from its own description.

import { get } from "./api.js";
import { h, table } from "./dom.js";

export async function description(place) {
  const found = await get("/openapi.json");
  const byTag = new Map();
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, how] of Object.entries(methods)) {
      const tag = how.tags?.[0] ?? "other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), { path, method: method.toUpperCase(), how }]);
    }
  }
  place.append(h("h1", {}, "API"),
    ...found.info.description.split("\n\n").map((text) => h("p", {}, text)),
    h("p", {}, "The whole description, for generators of clients: ", h("a", { href: "/openapi.json" }, "openapi.json")));
  for (const [tag, calls] of byTag) {
    place.append(h("h2", {}, tag), table(`Calls: ${tag}`, [
      { title: "Call", of: (c) => h("code", {}, `${c.method} ${c.path}`) },
      { title: "What it does", text: true, of: (c) => c.how.description ?? c.how.summary ?? "" },
      { title: "Parameters", text: true, of: (c) => (c.how.parameters ?? []).map((p) => p.name).join(", ") || "–" },
      { title: "Body", of: (c) => bodyOf(c.how) },
    ], calls));
  }
}

function bodyOf(how) {
  const schema = how.requestBody?.content?.["application/json"]?.schema;
  return schema?.$ref ? h("code", {}, schema.$ref.split("/").at(-1)) : "–";
}
