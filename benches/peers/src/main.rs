//! Contestants of `cargo xtask bench-peers` that are written in Rust: this project's runtime, tract and rten.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use protocol::Arguments;

mod protocol;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((name, rest)) => Arguments::parse(rest).and_then(|arguments| match name.as_str() {
            "traflow" => traflow(&arguments),
            "tract" => tract(&arguments),
            "rten" => rten(&arguments),
            other => bail!("there is no contestant {other}"),
        }),
        None => Err(anyhow::anyhow!("no contestant is named")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn traflow(arguments: &Arguments) -> Result<()> {
    use traflow_runtime::{Cpu, Engine, IntegerEngine, Isa, Model};
    let path = arguments.model.display();
    let bytes = std::fs::read(&arguments.model).with_context(|| format!("reading {path}"))?;
    // The bytes at an address that suits their tensors.
    let mut memory = vec![0; bytes.len() + 63];
    let skip = memory.as_ptr().align_offset(64);
    memory[skip..][..bytes.len()].copy_from_slice(&bytes);
    let model = Model::new(&memory[skip..][..bytes.len()]).with_context(|| format!("reading {path}"))?;
    let mut arena = vec![0; Engine::arena_bytes(&model).max(IntegerEngine::arena_bytes(&model))];
    let cpu = Cpu::with_threads(Isa::detect(), arguments.threads)?;
    if arguments.model.file_name().is_some_and(|name| name == "int8.traflow") {
        let mut engine = IntegerEngine::on(cpu, model, &mut arena)?;
        // The noise of the benchmark is that of seed 0.
        return arguments.serve(|| {
            let picture = engine.generate(0, 1)?;
            let channels = usize::from(picture.shape.channels);
            let of_channel = |channel| picture.numbers[channel..].iter().step_by(channels);
            Ok((0..channels).flat_map(of_channel).map(|&x| f32::from(x) / 4096.0).collect())
        });
    }
    let mut engine = Engine::on(cpu, model, &mut arena)?;
    arguments.serve(|| Ok(engine.run(&arguments.noise, 1)?.to_vec()))
}

fn tract(arguments: &Arguments) -> Result<()> {
    use tract_linalg::multithread::{Executor, set_default_executor};
    use tract_onnx::prelude::*;
    if arguments.threads > 1 {
        set_default_executor(Executor::multithread(arguments.threads));
    }
    let model = tract_onnx::onnx().model_for_path(&arguments.model)?.into_optimized()?;
    let shape: Vec<usize> =
        model.input_fact(0)?.shape.as_concrete().context("a shape is not static")?.to_vec();
    let mut state = model.into_runnable()?.spawn()?;
    let noise: TValue = Tensor::from_shape(&shape, &arguments.noise)?.into();
    arguments.serve(|| {
        let image = state.run(tvec![noise.clone()])?;
        Ok(image[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    })
}

fn rten(arguments: &Arguments) -> Result<()> {
    use rten::{Dimension, ModelOptions, RunOptions, ThreadPool, Value};
    let mut options = ModelOptions::with_all_ops();
    let model = options.prepack_weights(true).load_file(&arguments.model)?;
    let fixed = |dimension: Dimension| match dimension {
        Dimension::Fixed(size) => Ok(size),
        Dimension::Symbolic(name) => bail!("the size {name} is not static"),
    };
    let shape = model.input_shape(0).context("the model has no input shape")?;
    let shape = shape.into_iter().map(fixed).collect::<Result<Vec<usize>>>()?;
    let noise = Value::from_shape(&shape, arguments.noise.clone())?;
    let pool = Arc::new(ThreadPool::with_num_threads(arguments.threads));
    arguments.serve(|| {
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let image = model.run_one((&noise).into(), Some(options))?;
        let image: rten_tensor::Tensor<f32> = image.try_into()?;
        Ok(image.into_data())
    })
}
