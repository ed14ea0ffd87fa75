// The page's end of the engine: questions to it, be it in a worker or, where none can be made, on the page itself.

/** What asks the engine: `ask(kind, request, part)` gives a promise of its answer, null where a newer question came. */
export class EngineClient {
  constructor() {
    this.waiting = new Map();
    this.next = 0;
    this.place = "page";
    this.send = null;
  }

  /** Start it with the weights and facts that are in the page. */
  async start(weights, facts) {
    try {
      await this.inWorker();
    } catch {
      this.onPage(); // a frame or a browser that allows no workers
    }
    await this.ask("load", { weights, facts });
  }

  /** A worker of the engine's own script, whose text the page has. */
  inWorker() {
    const source = document.getElementById("engine").textContent,
      url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    return new Promise((resolve, reject) => {
      const worker = new Worker(url);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
      worker.onmessage = (event) => this.hear(event.data);
      this.send = (message) => worker.postMessage(message);
      this.ask("hello").then(resolve);
    }).then(() => {
      URL.revokeObjectURL(url);
      this.place = "worker";
    });
  }

  onPage() {
    this.waiting.clear();
    this.send = globalThis.gpt2npServing((message) => this.hear(message));
  }

  ask(kind, request = {}, part = () => {}) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, part });
      this.send({ id, kind, ...request });
    });
  }

  /** End a generation after the token that it is at. */
  stop() {
    this.send({ id: this.next++, kind: "stop" });
  }

  hear(message) {
    const asked = this.waiting.get(message.id);
    if (!asked) return;
    if ("part" in message) return asked.part(message.part);
    this.waiting.delete(message.id);
    if ("error" in message) asked.reject(new Error(message.error));
    else asked.resolve(message.stale ? null : message.value);
  }
}
