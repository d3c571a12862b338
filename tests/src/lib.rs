//! Agreement between the trainer, the exporter and the runtime; see the files in `tests/`.
