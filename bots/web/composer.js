// The box where a person writes and adds photos. What it sends is kept until the server has it.

const RETRY_SECONDS = [0.5, 1.5, 3];

const randomId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

export default {
  template: `
    <form class="composer" :class="{ sending }" @submit.prevent="send">
      <ul v-if="photos.length" class="previews">
        <li v-for="photo in photos" :key="photo.url">
          <img :src="photo.url" :alt="words.photo_preview + ' ' + photo.file.name" />
          <button type="button" class="remove" :aria-label="words.remove_photo"
                  :title="words.remove_photo" @click="remove(photo)">
            <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 7l10 10M17 7L7 17" /></svg>
          </button>
        </li>
      </ul>
      <div class="entry">
        <button type="button" class="round quiet" :aria-label="words.add_photo"
                :title="words.add_photo" @click="$refs.files.click()">
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <path d="M4 8.2h3.7l1.5-2.4h5.6l1.5 2.4H20v10.3H4z" />
            <circle cx="12" cy="13" r="3.1" />
          </svg>
        </button>
        <input ref="files" type="file" accept="image/*" multiple hidden @change="onFiles" />
        <textarea ref="box" v-model="text" rows="1" enterkeyhint="send"
                  :placeholder="words.ask_placeholder" :aria-label="words.ask_placeholder"
                  :readonly="sending" :aria-invalid="Boolean(error)" @keydown.enter="onEnter"
                  @paste="onPaste"></textarea>
        <button v-if="answering && !text.trim() && !photos.length" type="button"
                class="round stop" :aria-label="words.stop" :title="words.stop"
                @click="$emit('stop')">
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <rect x="7.5" y="7.5" width="9" height="9" rx="1.8" />
          </svg>
        </button>
        <button v-else type="submit" class="round send" :disabled="!ready" :aria-label="words.send"
                :title="words.send">
          <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 19V5.5M6 11l6-6 6 6" /></svg>
        </button>
      </div>
      <p v-if="error" class="problem" role="alert">{{ error }}</p>
      <div v-if="dragging" class="drop-here" aria-hidden="true"><span>{{ words.drop_photo }}</span></div>
    </form>`,
  props: {
    conversation: String,
    words: Object,
    maxPhotos: Number,
    maxPhotoBytes: Number,
    answering: Boolean,
  },
  emits: ["asked", "stop"],
  data() {
    return { text: "", photos: [], error: "", sending: false, dragging: false };
  },
  computed: {
    ready() {
      return !this.sending && Boolean(this.text.trim() || this.photos.length);
    },
    draftKey() {
      return `solemate-draft:${new URLSearchParams(location.search).get("c") ?? ""}`;
    },
  },
  watch: {
    text(text) {
      this.nextId = null;
      this.error = "";
      sessionStorage.setItem(this.draftKey, text);
      this.$nextTick(this.grow);
    },
    photos: {
      deep: true,
      handler() {
        this.nextId = null;
      },
    },
  },
  created() {
    this.nextId = null; // survives a failed try, so that a second one is the same message
    this.sent = new Map(); // what was taken in, by message id, until its answer is there
    this.text = sessionStorage.getItem(this.draftKey) ?? "";
  },
  mounted() {
    this.page = new AbortController();
    const on = (name, handler) =>
      window.addEventListener(name, handler, { signal: this.page.signal });
    on("dragover", this.onDragOver);
    on("dragleave", (event) => event.relatedTarget === null && (this.dragging = false));
    on("drop", this.onDrop);
    if (matchMedia("(hover: hover)").matches) this.$refs.box.focus();
    this.grow();
  },
  unmounted() {
    this.page.abort();
    this.photos.forEach(({ url }) => URL.revokeObjectURL(url));
  },
  methods: {
    onEnter(event) {
      // An Enter that picks a word in an input method is none of ours.
      if (event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      if (!event.repeat) this.send();
    },
    onFiles(event) {
      this.add([...event.target.files]);
      event.target.value = "";
      this.$refs.box.focus();
    },
    onPaste(event) {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    },
    onDragOver(event) {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      this.dragging = true;
    },
    onDrop(event) {
      this.dragging = false;
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    },
    add(files) {
      if (this.sending) return;
      const small = files.filter((file) => file.size <= this.maxPhotoBytes);
      const room = this.maxPhotos - this.photos.length;
      for (const file of small.slice(0, room)) {
        this.photos.push({ file, url: URL.createObjectURL(file) });
      }
      this.error = "";
      if (small.length < files.length) this.error = this.words.photo_large;
      if (small.length > room) this.error = this.words.photo_many;
    },
    remove(photo) {
      if (this.sending) return;
      this.photos = this.photos.filter((other) => other !== photo);
      URL.revokeObjectURL(photo.url);
      this.error = "";
      this.$refs.box.focus();
    },
    grow() {
      const box = this.$refs.box;
      if (!box) return;
      box.style.height = "auto";
      box.style.height = `${Math.min(box.scrollHeight, window.innerHeight * 0.4)}px`;
    },
    async send() {
      if (!this.ready) return;
      this.nextId ??= randomId();
      const message = { id: this.nextId, text: this.text.trim(), photos: this.photos.slice() };
      if (await this.post(message)) {
        this.text = "";
        this.photos = [];
      }
      this.$nextTick(() => this.$refs.box?.focus());
    },
    async ask(text, id) {
      if (!this.sending) await this.post({ id, text, photos: [] });
    },
    takeBack(id) {
      const message = this.sent.get(id);
      this.sent.delete(id);
      if (!message || this.text.trim() || this.photos.length) return;
      this.text = message.text;
      this.photos = message.photos;
      this.$refs.box.focus();
    },
    async post(message) {
      this.sending = true;
      this.error = "";
      try {
        const response = await this.deliver(message);
        const { sentence } = await response.json();
        if (response.ok) this.accepted(message);
        else this.error = sentence;
        return response.ok;
      } catch (failure) {
        this.error = failure instanceof TypeError ? this.words.not_sent : this.words.failed;
        return false;
      } finally {
        this.sending = false;
      }
    },
    accepted(message) {
      this.sent.set(message.id, message);
      sessionStorage.removeItem(this.draftKey);
      history.replaceState(history.state, "", `?c=${this.conversation}`);
      this.$emit("asked", message.id);
    },
    async deliver(message) {
      const form = new FormData();
      form.set("id", message.id);
      form.set("conversation", this.conversation);
      form.set("text", message.text);
      message.photos.forEach(({ file }) => form.append("photos", file));
      for (const seconds of RETRY_SECONDS) {
        try {
          return await this.upload(form);
        } catch {
          await pause(seconds);
        }
      }
      return this.upload(form);
    },
    upload(form) {
      return fetch(`${window.path_prefix ?? ""}/page/messages`, { method: "POST", body: form });
    },
  },
};
