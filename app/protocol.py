"""HTTP as uvicorn speaks it, within limits: of time, and of what is not a body.

A proxy has its own. Without one, a single client could keep a header coming: with every piece the
parser copies all that it has, so that ten megabytes stop everybody else for seconds.

And what finds the queue of passwords full is refused here, for next to nothing.
"""

from asyncio import Transport
from asyncio.events import TimerHandle

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

LARGEST_HEAD = 64 * 1024  # bytes of a header, or between two pieces of a body
MOST_HEADERS = 100  # and as many trailers: the shortest one takes a hundred bytes of memory
MOST_PIPELINED = 16  # requests of one connection that wait for the one before
ARRIVAL_SECONDS = 10  # for a whole request, from the first byte or from the connection
READING_SECONDS = 25  # in which a client takes nothing of its answer
LEAVING_SECONDS = 2  # for what still comes of a body that is refused already
CLOSE = b"connection", b"close"  # a header of all answers, while the process ends

NOTHING_MORE = b"content-length: 0\r\nconnection: close\r\n\r\n"


class TooMany(Exception):
    """The parser stops at it, as at what is no HTTP."""


class Protocol(HttpToolsProtocol):
    """Nothing is timed of a request that comes in one piece and whose answer is taken.

    There are no WebSockets: it needs `ws="none"`.
    """

    _timer: TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    _arriving = True
    _is_first = True  # of the requests in a piece of data: or one could be hundreds of refusals
    _is_over = False  # nothing more is read
    _is_refused = False  # the request whose body comes
    _fault = 400  # what the parser stops at
    _uncounted = 0  # bytes since a header or a message was complete, or a piece of a body came

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # or what is left of an answer would wait for ever
        self._give(ARRIVAL_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        if self._answering:  # uvicorn tells the newest: this one may still be before it
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._arriving = self._is_first = True
        self._uncounted += len(data)
        super().data_received(data)
        if self._uncounted > LARGEST_HEAD:
            self._end(431)
        elif self._arriving and self._timer is None:
            self._give(ARRIVAL_SECONDS)

    def send_400_response(self, msg: str) -> None:
        self._end(self._fault)

    def on_message_begin(self) -> None:
        self._arriving = True
        self._unset_keepalive_if_required()  # it may be in one piece with the one before
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == MOST_HEADERS:
            self._fault = 431
            raise TooMany
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._uncounted = 0
        if len(self.pipeline) >= MOST_PIPELINED:
            raise TooMany
        self._is_refused = self._takes_shortcut()
        if not self._is_refused:
            super().on_headers_complete()
            if self.parser.should_upgrade():  # no body is looked for: it would be the next request
                self.cycle.keep_alive = False
                self._is_over = True
        self.headers = []  # trailers are none of this request's

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._uncounted = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = False
        self._uncounted = 0
        if not self.flow.write_paused:
            self._be_patient()
        if self._is_refused:
            self._is_refused = False
        elif self.cycle.response_complete:
            self.cycle.more_body = False
        else:
            super().on_message_complete()
            return
        super().on_response_complete()  # which waits for the next request

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.flow.write_paused:
            self._give(LEAVING_SECONDS)

    def answer_for_the_last_time(self) -> None:
        """Of a request under way: it has the headers of the second in which it came."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _takes_shortcut(self) -> bool:
        """Whether this request is refused and answered, as app/api/shortcut.py says.

        Only what is plain, and its turn: the rest goes through uvicorn, which knows all the cases.
        """
        shortcut = self.app_state.get("shortcut")
        is_turn = self._is_first and (self.cycle is None or self.cycle.response_complete)
        self._is_first = False
        if shortcut is None or not is_turn or not self._is_plain():
            return False
        answer = shortcut.answer(self.parser.get_method(), self.url, self.scope)
        if answer is None:
            return False
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        head = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status_code], head, answer.body))
        return True

    def _is_plain(self) -> bool:
        return (
            self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and CLOSE not in self.server_state.default_headers
        )

    def _end(self, status: int) -> None:
        """Reads no more. A request that had arrived is answered; one that was arriving gets this.

        But not after its answer, nor while others wait for theirs: what does not come in its turn
        is taken for another request's answer.
        """
        self._is_over = True
        self._arriving = False
        self._uncounted = 0
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None:
            is_next = not self._is_refused
        elif cycle.response_complete:
            is_next = not (self._is_refused or cycle.more_body)
        elif not cycle.more_body:
            cycle.keep_alive = False
            if not self.flow.write_paused:
                self._be_patient()
            return
        else:
            is_next = not (cycle.response_started or self.pipeline)
        if is_next:
            self.transport.write(STATUS_LINE[status] + NOTHING_MORE)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._give(READING_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._be_patient()
        if self._arriving:
            self._give(ARRIVAL_SECONDS)

    def _give(self, seconds: float) -> None:
        self._be_patient()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _be_patient(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
