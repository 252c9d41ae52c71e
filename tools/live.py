#!/usr/bin/env python3
# make live: a stream without end, in a window or on a page, led by what is typed.
#
# This file is part of libwan; see the licence in wan/wan.h.
"""Play a stream that does not end; a line that is typed is its next prompt.

usage: live.py, with these in the environment:

  B       libwan's build folder; it has bin/ffmpeg and the demo models [build]
  MODEL   a text-to-video checkpoint [$WAN_MODEL, else a demo model, the causal one if it is there]
  PROMPT  the first prompt
  LIVE    words: window or page [window where there is a display and a player], port=N of the page [8080, or
          any that is free], and options of the filter: 'page port=9000 steps=8:rate=12'

The page is for this machine alone. Ctrl-C ends all of it; the exit status is 0 then, 1 after a failure, 2 if
it was asked for wrongly.
"""

import collections
import http.server
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unicodedata
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = 8080
PATIENCE = 10           # seconds for a program to end by itself
SPAN = 6                # seconds that the rate is measured over, and that lines of a log may be apart
LONGEST = 4000          # characters of a prompt; the model takes some 400 words
# The fades leave 13 of a clip's 17 frames, which two cores make in about the time that they are shown.
CLIPS = "steps=4:join=fade:join_frames=4"


class Fault(Exception):
    """What ends the program with one line."""

    def __init__(self, line, status=1):
        super().__init__(line)
        self.status = status


# ------------------------------------------------------------------------------------------- what is asked for

class Wish:
    """The words of LIVE."""

    def __init__(self, text):
        self.how = self.port = None
        options = []
        try:
            words = shlex.split(text)
        except ValueError as e:
            raise Fault(f"LIVE={text}: {e}", 2)
        for word in words:
            if word in ("page", "window"):
                self.how = word
            elif re.fullmatch(r"port=[0-9]{1,5}", word) and 0 < int(word[5:]) < 65536:
                self.port = int(word[5:])
            elif "=" in word and not word.startswith("port="):
                options.append(word)
            else:
                raise Fault(f"LIVE: '{word}' is none of page, window, port=1 to port=65535, or an option of the "
                            "filter such as steps=8", 2)
        self.options = "".join(":" + o for o in options)


def escaped(text):
    """Text as the value of an option in a graph."""
    return re.sub(r"([\\',;\[\]])", r"\\\1", re.sub(r"([\\:'])", r"\\\1", text))


def pick_model(build):
    """The model's folder or file, and options that go with it."""
    given = os.environ.get("MODEL") or os.environ.get("WAN_MODEL")
    if given:
        return given, ""
    demo = os.path.join(build, "share", "libwan", "demo")
    for name, options in ("causal", ""), ("t2v", ":" + CLIPS):
        folder = os.path.join(demo, name)
        if os.path.isdir(folder):
            return folder, options
    raise Fault(f"no demo model in {demo}; MODEL=DIR names a checkpoint")


class Ffmpeg:
    """What the program can do."""

    def __init__(self, build):
        self.path = os.path.join(build, "bin", "ffmpeg")
        if "wan_t2v" not in self._listed("filters"):
            raise Fault(f"{self.path} has no wan_t2v: make ffmpeg-minimal builds one that has")
        self.encoders = self._listed("encoders")
        self.muxers = self._listed("muxers")

    def _listed(self, what):
        try:
            done = subprocess.run([self.path, "-hide_banner", "-" + what], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        except OSError as e:
            raise Fault(f"{self.path}: {e.strerror}: make ffmpeg-minimal builds it")
        return set(re.findall(r"^ *[A-Z.]+ +(\S+)", done.stdout.decode(errors="replace"), re.M))

    def draws_text(self):
        """There is drawtext, and it finds a font."""
        return not subprocess.run(
            [self.path, "-v", "quiet", "-f", "lavfi", "-i", "color=s=32x32,drawtext=text=x", "-frames:v", "1",
             "-f", "null", "-"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode


def find_player(build):
    """The command of a player that reads standard input, or None."""
    path = os.pathsep.join([os.path.join(build, "bin"), os.environ.get("PATH", os.defpath)])
    for name, options in (
            ("ffplay", "-v error -hide_banner -nostats -fflags nobuffer -flags low_delay -window_title libwan "
                       "-autoexit -f nut -i pipe:0"),
            ("mpv", "--no-terminal --no-config --profile=low-latency --title=libwan --demuxer-lavf-format=nut -")):
        found = shutil.which(name, path=path)
        if found:
            return [found] + options.split()
    return None


# ------------------------------------------------------------------------------------------------- the stream

class Stream:
    """What is known of the stream; threads write and read it."""

    def __init__(self, folder):
        self.file = os.path.join(folder, "prompt.txt")
        self.changed = threading.Condition()
        self.asked = None           # the last prompt that was given
        self.prompt = None          # that of the frame on screen; None: nothing is made yet
        self.behind = 0.0           # seconds, by the clock
        self.frames = 0             # on screen so far
        self.repeated = 0           # of them shown again
        self.made = collections.deque()     # when the others came, of the last seconds
        self.picture = None         # the last JPEG
        self.number = 0             # of pictures
        self.ended = False
        self.cause = None           # of FFmpeg's end

    def ask(self, text):
        """Take a prompt. Returns what is wrong with it, or None."""
        # controls would go to the terminal
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not text:
            return "an empty prompt"
        if len(text) > LONGEST:
            return f"a prompt of {len(text)} characters; {LONGEST} are the most"
        with self.changed:
            try:
                # never half of it, and never nothing: see 'A file' in docs/live.md
                with open(self.file + ".new", "w", encoding="utf-8") as f:
                    f.write(text + "\n")
                os.replace(self.file + ".new", self.file)
            except OSError as e:
                return str(e)
            self.asked = text
        return None

    def tell(self):
        """All of it as a dictionary."""
        with self.changed:
            now = time.monotonic()
            while self.made and self.made[0] < now - SPAN:
                self.made.popleft()
            span = now - self.made[0] if self.made else 0
            rate = (len(self.made) - 1) / span if span > 0.5 else 0
            return {"prompt": self.prompt, "next": None if self.asked == self.prompt else self.asked,
                    "fps": round(rate, 1), "behind": round(self.behind, 1), "frames": self.frames,
                    "repeated": self.repeated}

    def close(self):
        with self.changed:
            self.ended = True
            self.changed.notify_all()


def in_words(told):
    """One line for people."""
    if told["prompt"] is None:
        return "the first frames are being made"
    following = f" | next: {told['next']}" if told["next"] else ""
    return f"{told['fps']:.1f} fps, {told['behind']:.1f} s behind | {told['prompt']}{following}"


def follow_metadata(stream, pipe):
    """What the filter metadata prints: a line with the frame's number, then lines of key=value."""
    repeated = False
    with open(pipe, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            with stream.changed:
                if key.startswith("frame:"):
                    if stream.frames and not repeated:
                        stream.made.append(time.monotonic())    # the one before
                    stream.frames += 1
                    repeated = False
                elif key == "lavfi.wan.repeated":
                    repeated = True
                    stream.repeated += 1
                elif key == "lavfi.wan.prompt":
                    stream.prompt = value
                elif key == "lavfi.wan.late":
                    stream.behind = float(value)


def follow_pictures(stream, pipe):
    """JPEGs, one after the other: in one's data no FF is followed by a D9."""
    kept = b""
    while True:
        more = pipe.read1(1 << 16)
        if not more:
            return
        *pictures, kept = (kept + more).split(b"\xff\xd9")
        for picture in pictures:
            with stream.changed:
                stream.picture = picture + b"\xff\xd9"
                stream.number += 1
                stream.changed.notify_all()


def follow_log(stream, pipe):
    """FFmpeg's errors: with -xerror each ends it, and of lines that come together the first is the cause."""
    last = -SPAN
    for line in pipe:
        line = re.sub(r"^(\[[^]]*\] *)+", "", line.decode(errors="replace").strip())
        if line and time.monotonic() > last + SPAN:
            stream.cause = line
        last = time.monotonic()


# --------------------------------------------------------------------------------------------------- the page

class Page(http.server.BaseHTTPRequestHandler):
    """One request; server.stream, server.folder."""

    timeout = 30
    server_version = "libwan"
    sys_version = ""

    def log_message(self, *_):
        pass

    def _refuse(self, status, why):
        self._answer((why + "\n").encode(), "text/plain; charset=utf-8", status)

    def _answer(self, body, kind, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def _is_ours(self):
        """Not a page from elsewhere, which a browser would let talk to this machine too."""
        host, site = self.headers.get("Host", ""), self.headers.get("Sec-Fetch-Site", "none")
        origin = self.headers.get("Origin", "http://" + host)
        if re.fullmatch(r"(127\.0\.0\.1|localhost)(:[0-9]+)?", host) and origin == "http://" + host \
                and site in ("same-origin", "none"):     # of pictures there is no Origin
            return True
        self._refuse(403, "this page is for this machine alone")
        return False

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if not self._is_ours():
            return
        if path == "/":
            with open(os.path.join(HERE, "live.html"), "rb") as f:
                self._answer(f.read(), "text/html; charset=utf-8")
        elif path == "/status.json":
            self._answer(json.dumps(self.server.stream.tell()).encode(), "application/json")
        elif path == "/stream":
            self._stream()
        elif re.fullmatch(r"/(live\.m3u8|init\.mp4|live[0-9]+\.m4s)", path):
            self._file(path[1:])
        else:
            self._refuse(404, "there is nothing here")

    def _file(self, name):
        kind = "application/vnd.apple.mpegurl" if name.endswith(".m3u8") else "video/mp4"
        try:
            with open(os.path.join(self.server.folder, name), "rb") as f:
                body = f.read()
        except OSError:
            self._refuse(404, "not there, or not there any more")
            return
        self._answer(body, kind)

    def _stream(self):
        """JPEGs, each in the place of the one before. Who is slow misses some, and is never behind."""
        stream, sent = self.server.stream, 0
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(b"--frame\r\n")
        while True:
            with stream.changed:
                while stream.number == sent and not stream.ended:
                    stream.changed.wait()
                if stream.ended:
                    return
                sent, picture = stream.number, stream.picture
            # The boundary behind a picture is what makes a browser show it.
            self.wfile.write(b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n--frame\r\n"
                             % (len(picture), picture))

    def do_POST(self):
        if not self._is_ours():
            return
        if self.path != "/prompt":
            self._refuse(404, "there is nothing here")
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,5}", length) or int(length) > 4 * LONGEST:
            self._refuse(413, f"a prompt has {LONGEST} characters at most")
            return
        try:
            wrong = self.server.stream.ask(self.rfile.read(int(length)).decode())
        except UnicodeDecodeError:
            wrong = "a prompt that is not UTF-8"
        if wrong:
            self._refuse(400, wrong)
        else:
            self._answer(b"", "text/plain", 204)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Somebody closed a page."""

    def __init__(self, port, stream, folder):
        self.stream, self.folder = stream, folder
        try:
            super().__init__(("127.0.0.1", port or PORT), Page)
        except OSError as e:
            if port:
                raise Fault(f"port={port}: {e.strerror}")
            super().__init__(("127.0.0.1", 0), Page)
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()


# ----------------------------------------------------------------------------------------------- the terminal

class Terminal:
    """Lines, and one at the bottom that is written again and again. On a terminal the others scroll above it,
    what is typed too; elsewhere it appears when there is another prompt."""

    def __init__(self):
        self.tty = os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb"
        self.lock = threading.Lock()
        self.size = None
        self.last = None        # the prompt that was told

    def _write(self, text):
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(1, data):]
        except OSError:         # nobody reads that any more
            pass

    def say(self, line):
        with self.lock:
            self._write(line + "\n")

    def show(self, told):
        with self.lock:
            if self.tty:
                self._draw(in_words(told))
            elif told["prompt"] != self.last:
                self.last = told["prompt"]
                self._write(f"live: on screen: {self.last}\n")

    def _draw(self, line):
        columns, rows = shutil.get_terminal_size()
        if rows < 4:
            return
        if (columns, rows) != self.size:
            # Lines scroll above the last row; the cursor gets out of there first.
            self._write(f"\n\x1b7\x1b[1;{rows - 1}r\x1b8\x1b[1A")
            self.size = columns, rows
        width, shown = 0, ""
        for c in line:
            width += 2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c)
            if width >= columns:
                break
            shown += c
        self._write(f"\x1b7\x1b[{rows};1H\x1b[7m{shown}\x1b[0m\x1b[K\x1b8")

    def close(self):
        with self.lock:
            if self.size:
                self._write(f"\x1b7\x1b[r\x1b[{self.size[1]};1H\x1b[2K\x1b8")
            self.tty, self.size = False, None


class Lines:
    """Lines of standard input, whatever that is."""

    def __init__(self):
        self.kept = b""
        self.open = True

    def read(self):
        """What can be read now: whole lines, and the rest at the end."""
        try:
            more = os.read(0, 1 << 16)
        except OSError:         # a terminal that is gone
            more = b""
        self.open = bool(more)
        *lines, self.kept = (self.kept + more).split(b"\n")
        if not self.open:
            lines, self.kept = lines + [self.kept], b""
        self.kept = self.kept[-8 * LONGEST:]
        return [line for line in lines if line.strip()]


# --------------------------------------------------------------------------------------------- all of it

def graph_and_outputs(ffmpeg, how, source, folder, terminal):
    """The end of FFmpeg's command for a window or a page."""
    if how == "window":
        text = ""
        if ffmpeg.draws_text():
            text = (",drawtext=expansion=none:reload=1:fontsize=18:fontcolor=white:box=1:boxcolor=black@0.5:x=8:"
                    f"y=h-th-8:textfile={escaped(os.path.join(folder, 'drawn.txt'))}")
        return ["-filter_complex", f"{source},scale=w='max(640,iw)':h=-2:flags=bicubic{text}[v]",
                "-map", "[v]", "-c:v", "rawvideo", "-f", "nut", "pipe:1"]
    if "mjpeg" not in ffmpeg.encoders or "image2pipe" not in ffmpeg.muxers:
        raise Fault(f"{ffmpeg.path} has no encoder mjpeg or no muxer image2pipe, which the page needs")
    # JPEG has one matrix
    jpeg = "scale=out_color_matrix=bt601:out_range=full"
    pictures = ["-c:v", "mjpeg", "-q:v", "3", "-f", "image2pipe", "pipe:1"]
    if "libx264" not in ffmpeg.encoders or "hls" not in ffmpeg.muxers:
        terminal.say("live: no HLS for players: the ffmpeg has no libx264 or no muxer hls; the page needs neither")
        return ["-filter_complex", f"{source},{jpeg}[p]", "-map", "[p]"] + pictures
    return (["-filter_complex", f"{source},split[a][v];[a]{jpeg}[p]", "-map", "[p]"] + pictures +
            ["-map", "[v]", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast", "-tune", "zerolatency",
             "-x264-params", "log=0", "-force_key_frames", "expr:gte(t,n_forced)", "-sc_threshold", "0",
             "-f", "hls", "-hls_time", "1", "-hls_list_size", "6", "-hls_segment_type", "fmp4",
             "-hls_flags", "delete_segments+independent_segments+program_date_time+temp_file",
             os.path.join(folder, "live.m3u8")])


class Live:
    """What runs: FFmpeg, what reads its log, metadata and pictures, a player or a server."""

    def __init__(self, terminal):
        self.terminal = terminal
        self.folder = self.stream = self.ffmpeg = self.log = self.player = self.server = None

    def start(self):
        build = os.environ.get("B") or "build"
        wish = Wish(os.environ.get("LIVE", ""))
        ffmpeg = Ffmpeg(build)
        model, options = pick_model(build)
        player = find_player(build)
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if wish.how == "window" and not player:
            raise Fault("LIVE=window wants ffplay or mpv; LIVE=page is for a browser")
        how = wish.how or ("window" if player and display else "page")

        self.folder = tempfile.mkdtemp(prefix="wan-live.")
        self.stream = Stream(self.folder)
        wrong = self.stream.ask(os.environ.get("PROMPT") or "a red ball bounces over a grassy field")
        if wrong:
            raise Fault("PROMPT: " + wrong, 2)
        self._draw_text()
        if how == "page":
            self.server = Server(wish.port, self.stream, self.folder)
        self._run_ffmpeg(ffmpeg, how, f"wan_t2v=model={escaped(model)}:promptfile={escaped(self.stream.file)}"
                                      f":reload=1:clips=0:late=repeat{options}{wish.options}")
        if how == "window":
            self._run_player(player)
        else:
            self.terminal.say(f"live: http://127.0.0.1:{self.server.server_port}/ in a browser"
                              f", /live.m3u8 there in a player of HLS")
        self.terminal.say("live: a line that is typed is the next prompt; Ctrl-C ends it")

    def _run_ffmpeg(self, ffmpeg, how, source):
        told, tells = os.pipe()
        source += f",metadata=print:file=pipe\\\\:{tells}:direct=1"
        try:
            # in a session of its own, so that Ctrl-C is ours to hand on
            self.ffmpeg = subprocess.Popen(
                [ffmpeg.path, "-hide_banner", "-nostdin", "-nostats", "-v", "error", "-xerror", "-y"] +
                graph_and_outputs(ffmpeg, how, source, self.folder, self.terminal),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[tells],
                start_new_session=True)
        finally:
            os.close(tells)
        self._follow(follow_metadata, told)
        self.log = self._follow(follow_log, self.ffmpeg.stderr)
        if how == "page":
            self._follow(follow_pictures, self.ffmpeg.stdout)

    def _run_player(self, command):
        with open(os.path.join(self.folder, "player.log"), "wb") as log:
            self.player = subprocess.Popen(command, stdin=self.ffmpeg.stdout, stdout=log, stderr=log,
                                           start_new_session=True)
        self.ffmpeg.stdout.close()

    def _follow(self, what, *arguments):
        thread = threading.Thread(target=what, args=(self.stream,) + arguments, daemon=True)
        thread.start()
        return thread

    def _draw_text(self):
        """What drawtext reads; renamed, so that it never reads half."""
        name = os.path.join(self.folder, "drawn.txt")
        with open(name + ".new", "w", encoding="utf-8") as f:
            f.write("\n".join(textwrap.wrap(in_words(self.stream.tell()), 64)))
        os.replace(name + ".new", name)

    def tick(self):
        """Show how it stands. Returns whether it goes on."""
        told = self.stream.tell()
        if told["prompt"] is not None or self.terminal.tty:
            self.terminal.show(told)
        if self.player:
            self._draw_text()
        if self.player and self.player.poll() is not None and not self._ended_first():
            self._player_ended()
            return False
        if self.ffmpeg.poll() is None:
            return True
        self.log.join(PATIENCE)
        raise Fault(self.stream.cause or f"ffmpeg has ended, status {self.ffmpeg.returncode}")

    def _ended_first(self):
        """The player has ended because FFmpeg had; a player that is closed breaks its pipe."""
        try:
            self.ffmpeg.wait(1)
        except subprocess.TimeoutExpired:
            return False
        self.log.join(PATIENCE)
        return not self.stream.frames or "Broken pipe" not in (self.stream.cause or "Broken pipe")

    def _player_ended(self):
        if not self.player.returncode:
            return
        with open(os.path.join(self.folder, "player.log"), errors="replace") as log:
            line = next((one.strip() for one in log if one.strip()), f"status {self.player.returncode}")
        raise Fault(f"{self.player.args[0]} can't play it: {line}; LIVE=page is for a browser")

    def stop(self):
        """End what runs, as gently as it lets us, and leave nothing."""
        if self.stream:
            self.stream.close()
        if self.server:
            self.server.shutdown()
            self.server.server_close()
        for process in self.player, self.ffmpeg:
            if not process:
                continue
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def run(live, terminal, woken):
    """Until a signal, the end of a program, or a fault."""
    live.start()
    lines, due = Lines(), 0.0
    while True:
        if time.monotonic() >= due:
            if not live.tick():
                return
            due = time.monotonic() + 0.5
        ready = select.select([woken] + [0] * lines.open, [], [], max(0, due - time.monotonic()))[0]
        if woken in ready:
            return
        for line in lines.read() if 0 in ready else []:
            wrong = live.stream.ask(line.decode(errors="replace"))
            if wrong:
                terminal.say("live: " + wrong)


def main():
    while True:                 # 0, 1 and 2 are open: files that are opened later are none of them
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda *_: None)
    terminal = Terminal()
    live = Live(terminal)
    status, line = 0, ""
    try:
        run(live, terminal, woken)
    except Fault as e:
        status, line = e.status, str(e)
    except OSError as e:
        status, line = 1, str(e)
    finally:
        live.stop()
        terminal.close()
    if line:
        terminal.say("live: " + line)
    elif live.stream:
        told = live.stream.tell()
        terminal.say(f"live: {told['frames']} frames, {told['repeated']} of them shown again")
    return status


if __name__ == "__main__":
    sys.exit(main())
