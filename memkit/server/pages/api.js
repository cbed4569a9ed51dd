// Calls of the memory API, with the key that this tab was given.

const KEY = "memkit-key";
const USER = "memkit-user";

export class ApiError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export const signedIn = () => sessionStorage.getItem(KEY) !== null;
export const user = () => sessionStorage.getItem(USER) ?? "";
export const setUser = (name) => sessionStorage.setItem(USER, name);
export function signIn(key, name) { sessionStorage.setItem(KEY, key); setUser(name); }
export function signOut() { sessionStorage.removeItem(KEY); sessionStorage.removeItem(USER); }

export async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (user()) headers["X-Memkit-User"] = encodeURIComponent(user().toWellFormed?.() ?? user());
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "the server cannot be reached");
  }
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, found?.error?.message ?? `the server answered ${answer.status}`);
  return found;
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}) => call("POST", path, body);
export const remove = (path) => call("DELETE", path);
