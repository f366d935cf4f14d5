;; The functions that Pyodide expects from JavaScript and that this runtime writes in WebAssembly instead,
;; and the device by which the guest program and the host exchange frames. They become part of the interpreter's module
;; (link.py): `main` stands for that module, `host` for what the host supplies.
;;
;; Words below address 1024 belong to nobody (emscripten's static data starts there):
;;   64  signal to deliver; the host stores 2 (SIGINT) to interrupt the guest, 14 (SIGALRM) when its alarm goes off,
;;       16 to have garbage collected
;;   68  PyObject* of the function that handles a frame
;;   72  the table of the local time zone: its address, then its size (0: UTC)
;;   80  PyObject* of the exception, and address of its text, for a foreign function that cannot be called
;;   88  the table of the texts of errors that are not the C library's, by Linux's numbers: 256 addresses (errors.py)
;;   128 scratch Py_buffer
;;   256 Linux's error numbers by the C library's, a byte each, and 512 the other way (errors.py); 0: the same
(module
  (type $three (func (param i32 i32 i32) (result i32)))
  (type $two (func (param i32 i32) (result i32)))
  (type $one (func (param i32) (result i32)))
  (type $zero (func (result i32)))
  (type $handler (func (param i32)))

  (import "main" "memory" (memory 0))
  (import "main" "__indirect_function_table" (table 0 funcref))
  (import "main" "PyBytes_FromStringAndSize" (func $bytes_new (param i32 i32) (result i32)))
  (import "main" "PyBytes_AsString" (func $bytes_data (param i32) (result i32)))
  (import "main" "PyBytes_Size" (func $bytes_size (param i32) (result i32)))
  (import "main" "PyGILState_Ensure" (func $ensure_lock (result i32)))
  (import "main" "PyGILState_Release" (func $release_lock (param i32)))
  (import "main" "PyErr_SetString" (func $set_error (param i32 i32)))
  (import "main" "PyObject_CallOneArg" (func $call_one (param i32 i32) (result i32)))
  (import "main" "PyObject_GetBuffer" (func $get_buffer (param i32 i32 i32) (result i32)))
  (import "main" "PyBuffer_Release" (func $release_buffer (param i32)))
  (import "main" "PyErr_Print" (func $print_error))
  (import "main" "PyLong_FromLong" (func $int (param i32) (result i32)))
  (import "main" "PyLong_AsLong" (func $as_int (param i32) (result i32)))
  (import "main" "PyFloat_FromDouble" (func $float (param f64) (result i32)))
  (import "main" "PyFloat_AsDouble" (func $as_float (param i32) (result f64)))
  (import "main" "PyErr_CheckSignals" (func $check_signals (result i32)))
  (import "main" "malloc" (func $malloc (param i32) (result i32)))
  (import "main" "free" (func $free (param i32)))
  (import "main" "Py_DecRef" (func $decref (param i32)))
  (import "main" "__errno_location" (func $errno_place (result i32)))
  (import "main" "strerror" (func $strerror (param i32) (result i32)))
  (import "original" "PyErr_SetFromErrnoWithFilenameObjects" (func $set_from_errno (param i32 i32 i32) (result i32)))

  (import "host" "sleep" (func $sleep (param f64)))
  (import "host" "clock_sleep" (func $clock_sleep (param i32 i32 i32 i32) (result i32)))
  (import "host" "part" (func $part (param i32 i32 i32)))
  (import "host" "wait" (func $wait (param i32) (result i32)))
  (import "host" "alarm" (func $alarm (param f64 f64) (result f64)))
  (import "host" "reply_size" (func $reply_size (result i32)))
  (import "host" "reply" (func $reply (param i32 i32)))

  ;; CPython calls methods that were declared with fewer parameters than it passes. WebAssembly checks types at an indirect
  ;; call, so the function's own type decides how many arguments it gets.
  (func (export "_PyEM_TrampolineCall_JS") (param $f i32) (param $a i32) (param $b i32) (param $c i32) (result i32)
    (local $r funcref)
    (local.set $r (table.get 0 (local.get $f)))
    (if (ref.test (ref $three) (local.get $r))
      (then (return (call_indirect (type $three) (local.get $a) (local.get $b) (local.get $c) (local.get $f)))))
    (if (ref.test (ref $two) (local.get $r))
      (then (return (call_indirect (type $two) (local.get $a) (local.get $b) (local.get $f)))))
    (if (ref.test (ref $one) (local.get $r))
      (then (return (call_indirect (type $one) (local.get $a) (local.get $f)))))
    (call_indirect (type $zero) (local.get $f)))

  (func $exchanged (param $number i32) (param $table i32) (result i32)
    (local $other i32)
    (if (i32.lt_u (local.get $number) (i32.const 256))
      (then (local.set $other (i32.load8_u (i32.add (local.get $table) (local.get $number))))))
    (select (local.get $other) (local.get $number) (local.get $other)))

  ;; Every OSError that C code raises is made here. What was interrupted (27) is looked at before it has another number: the original would not know it.
  (func (export "PyErr_SetFromErrnoWithFilenameObjects") (param $kind i32) (param $first i32) (param $second i32) (result i32)
    (local $place i32) (local $number i32)
    (local.set $place (call $errno_place))
    (local.set $number (i32.load (local.get $place)))
    (if (i32.eq (local.get $number) (i32.const 27))
      (then (if (call $check_signals) (then (return (i32.const 0))))))
    (i32.store (local.get $place) (call $exchanged (local.get $number) (i32.const 256)))
    (drop (call $set_from_errno (local.get $kind) (local.get $first) (local.get $second)))
    (i32.store (local.get $place) (local.get $number))
    (i32.const 0))

  ;; What the original calls for the message.
  (func (export "safeexec_strerror") (param $number i32) (result i32)
    (local $texts i32) (local $text i32)
    (local.set $texts (i32.load (i32.const 88)))
    (if (i32.and (i32.ne (local.get $texts) (i32.const 0)) (i32.lt_u (local.get $number) (i32.const 256)))
      (then (local.set $text (i32.load (i32.add (local.get $texts) (i32.shl (local.get $number) (i32.const 2)))))))
    (if (local.get $text) (then (return (local.get $text))))
    (call $strerror (call $exchanged (local.get $number) (i32.const 512))))

  ;; The evaluation loop polls this; the word costs no call into the host.
  (func (export "_Py_CheckEmscriptenSignals_Helper") (result i32)
    (local $signal i32)
    (local.set $signal (i32.load (i32.const 64)))
    ;; Only what was seen is taken away: an interrupt that the host stores between the two would be lost, one of two hundred in a tight loop.
    (if (local.get $signal) (then (i32.store (i32.const 64) (i32.const 0))))
    (local.get $signal))

  ;; Emscripten busy-waits without threads; the host can wait properly, and be woken to kill.
  (func (export "emscripten_thread_sleep") (param $milliseconds f64)
    (call $sleep (local.get $milliseconds)))

  ;; time.sleep() calls this one, and raises KeyboardInterrupt when it returns EINTR.
  (func (export "clock_nanosleep") (param $clock i32) (param $flags i32) (param $wanted i32) (param $left i32) (result i32)
    (call $clock_sleep (local.get $clock) (local.get $flags) (local.get $wanted) (local.get $left)))

  ;; A call of ctypes: of CPython's own functions behind cast, string_at, memmove and the like, whose arguments are words. There are no others;
  ;; what is none of them (a closure, a made-up address) is an exception. ffi_cif: abi, nargs, arg_types, rtype; ffi_type: size, u16 alignment, u16 type
  ;; (0 void, 2 float). Source: libffi's ffi.h.
  (func (export "ffi_call_js") (param $cif i32) (param $f i32) (param $result i32) (param $values i32)
    (local $r funcref) (local $count i32) (local $n i32) (local $type i32) (local $value i32)
    (local.set $count (i32.load offset=4 (local.get $cif)))
    (block $unknown
      (br_if $unknown (i32.ge_u (local.get $f) (table.size 0)))
      (local.set $r (table.get 0 (local.get $f)))
      (local.set $type (i32.load offset=12 (local.get $cif)))
      (loop $next
        (if (i32.load16_u offset=6 (local.get $type))
          (then
            (br_if $unknown (i32.ne (i32.load (local.get $type)) (i32.const 4)))
            (br_if $unknown (i32.eq (i32.load16_u offset=6 (local.get $type)) (i32.const 2)))))
        (if (i32.lt_u (local.get $n) (local.get $count))
          (then
            (local.set $type (i32.load (i32.add (i32.load offset=8 (local.get $cif)) (i32.shl (local.get $n) (i32.const 2)))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $next))))
      (block $called
        (if (i32.and (i32.eq (local.get $count) (i32.const 3)) (ref.test (ref $three) (local.get $r)))
          (then
            (local.set $value (call_indirect (type $three) (i32.load (i32.load (local.get $values)))
              (i32.load (i32.load offset=4 (local.get $values))) (i32.load (i32.load offset=8 (local.get $values))) (local.get $f)))
            (br $called)))
        (if (i32.and (i32.eq (local.get $count) (i32.const 2)) (ref.test (ref $two) (local.get $r)))
          (then
            (local.set $value (call_indirect (type $two) (i32.load (i32.load (local.get $values)))
              (i32.load (i32.load offset=4 (local.get $values))) (local.get $f)))
            (br $called)))
        (br $unknown))
      (if (i32.load16_u offset=6 (i32.load offset=12 (local.get $cif)))
        (then (i32.store (local.get $result) (local.get $value))))
      (return))
    ;; ctypes has let go of the lock for all but PyDLL's functions, and of its thread state with it.
    (local.set $n (call $ensure_lock))
    (call $set_error (i32.load (i32.const 80)) (i32.load (i32.const 84)))
    (call $release_lock (local.get $n)))

  ;; `import ctypes` makes one closure to try it out. Closures can be made, and never called: there is no foreign function.
  (func (export "ffi_closure_alloc_js") (param $size i32) (param $code i32) (result i32)
    (local $closure i32)
    (local.set $closure (call $malloc (local.get $size)))
    (i32.store (local.get $code) (local.get $closure))
    (local.get $closure))
  (func (export "ffi_closure_free_js") (param $closure i32)
    (call $free (local.get $closure)))
  (func (export "ffi_prep_closure_loc_js") (param i32 i32 i32 i32 i32) (result i32)
    (i32.const 0))

  ;; raise() of C code: the handler is a pointer.
  (func (export "__call_sighandler") (param $handler i32) (param $signal i32)
    (call_indirect (type $handler) (local.get $signal) (local.get $handler)))

  ;; METH_FASTCALL: send(*buffers) -> 0. One frame, given in parts, so that a large blob is copied once;
  ;; the host is told how many are still to come.
  (func (export "safeexec_send") (param $self i32) (param $arguments i32) (param $count i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (if (i32.lt_s (call $get_buffer (i32.load (local.get $arguments)) (i32.const 128) (i32.const 0)) (i32.const 0))
          (then (return (i32.const 0))))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (call $part (i32.load (i32.const 128)) (i32.load (i32.const 136)) (local.get $count))
        (call $release_buffer (i32.const 128))
        (local.set $arguments (i32.add (local.get $arguments) (i32.const 4)))
        (br $next)))
    (call $int (i32.const 0)))

  ;; METH_NOARGS: receive() -> bytes. Waits for the next frame from the host.
  (func $receive (export "safeexec_receive") (param $self i32) (param $unused i32) (result i32)
    (local $size i32) (local $object i32)
    (local.set $size (call $reply_size))
    (local.set $object (call $bytes_new (i32.const 0) (local.get $size)))
    (if (i32.eqz (local.get $object)) (then (return (i32.const 0))))
    (call $reply (call $bytes_data (local.get $object)) (local.get $size))
    (local.get $object))

  ;; METH_O: wait(milliseconds) -> whether a frame waits; -1 waits for as long as it takes.
  (func (export "safeexec_wait") (param $self i32) (param $milliseconds i32) (result i32)
    (local $result i32)
    (local.set $result (call $wait (call $as_int (local.get $milliseconds))))
    (if (i32.lt_s (call $check_signals) (i32.const 0)) (then (return (i32.const 0))))
    (call $int (local.get $result)))

  ;; METH_O: zone(bytes) -> 0. The table that the host's localtime and mktime read (syscalls_time.py); the caller keeps the bytes alive.
  (func (export "safeexec_zone") (param $self i32) (param $table i32) (result i32)
    (i32.store (i32.const 72) (call $bytes_data (local.get $table)))
    (i32.store (i32.const 76) (call $bytes_size (local.get $table)))
    (call $int (i32.const 0)))

  ;; METH_NOARGS: memory() -> pages (64 KiB) of linear memory, which never shrinks.
  (func (export "safeexec_memory") (param $self i32) (param $unused i32) (result i32)
    (call $int (memory.size)))

  ;; METH_FASTCALL: alarm(seconds, interval) -> seconds that were left of the one before. See guest_alarms.py.
  (func (export "safeexec_alarm") (param $self i32) (param $arguments i32) (param $count i32) (result i32)
    (call $float (call $alarm
      (call $as_float (i32.load (local.get $arguments)))
      (call $as_float (i32.load offset=4 (local.get $arguments))))))

  ;; The host's way in: hand the waiting frame, of this size, to the guest program. 0, or -1 after an exception that it let through.
  (func (export "safeexec_step") (param $size i32) (result i32)
    (local $frame i32) (local $result i32)
    (local.set $frame (call $bytes_new (i32.const 0) (local.get $size)))
    (if (i32.eqz (local.get $frame)) (then (call $print_error) (return (i32.const -1))))
    (call $reply (call $bytes_data (local.get $frame)) (local.get $size))
    (local.set $result (call $call_one (i32.load (i32.const 68)) (local.get $frame)))
    (call $decref (local.get $frame))
    (if (i32.eqz (local.get $result)) (then (call $print_error) (return (i32.const -1))))
    (call $decref (local.get $result))
    (i32.const 0))
)
