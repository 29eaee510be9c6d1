// Search without a server. Browsers start no worker from a file, so on pages opened from a folder a hidden frame takes
// a worker's place. The offline plugin of Material looks for this name, and asks for no script from elsewhere then.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.started = new Promise((resolve, reject) => {
        this.frame.addEventListener("load", () => this.start(url, resolve, reject), { once: true });
      });
      document.documentElement.append(this.frame);
    }
    start(url, resolve, reject) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      script.src = new URL(url, document.baseURI);
      script.addEventListener("load", () => resolve(inside));
      script.addEventListener("error", reject);
      inside.document.head.append(script);
    }
    async postMessage(data) {
      const inside = await this.started;
      inside.dispatchEvent(new MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
