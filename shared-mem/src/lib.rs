//! The pool: files, layout, journal, record log, heartbeat pages, copy-on-write views.
