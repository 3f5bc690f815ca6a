//! A fake `libamdhip64.so.6`.
