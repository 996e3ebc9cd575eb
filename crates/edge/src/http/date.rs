//! The date of answers (RFC 9110, 6.6.1).

use std::{cell::RefCell, time::SystemTime};

/// The date as answers tell it. It is written anew once a second.
pub fn with_date<T>(read: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<(u64, String)> = RefCell::default();
    }
    let now = kit::clock::unix_ms() / 1000;
    DATE.with_borrow_mut(|(at, text)| {
        if *at != now {
            (*at, *text) = (now, httpdate::fmt_http_date(SystemTime::now()));
        }
        read(text)
    })
}
