//! An engine of either kind, and the check of its file.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use traflow_graph::model::Dtype;
use traflow_runtime::{Cpu, Engine, EngineError, IntegerEngine, Isa, Mix, Model};

use crate::arguments::Source;
use crate::system::Aside;

/// An engine, and the file's checksum, for which all of the file is read while the first picture is made. Nothing is handed
/// out before that is done.
pub(crate) struct Runner<'m, 'a, 's> {
    /// The model file, which errors name.
    path: &'m Path,
    engine: AnyEngine<'m, 'a>,
    check: Option<Aside<'s, Result<()>>>,
}

/// An engine of either kind.
enum AnyEngine<'m, 'a> {
    Float(Engine<'m, 'a>),
    Integer(IntegerEngine<'m, 'a>),
}

impl<'m, 'a, 's> Runner<'m, 'a, 's> {
    pub(crate) fn new(
        path: &'m Path,
        model: Model<'m>,
        check: Aside<'s, Result<()>>,
        cpu: Cpu,
        arena: &'a mut [u8],
    ) -> Result<Self> {
        let engine = match model.weights() {
            Dtype::I8 => AnyEngine::Integer(IntegerEngine::on(cpu, model, arena)?),
            Dtype::F32 | Dtype::F16 => AnyEngine::Float(Engine::on(cpu, model, arena)?),
        };
        Ok(Self { path, engine, check: Some(check) })
    }

    /// Whether the file is whole.
    pub(crate) fn checked(&mut self) -> Result<()> {
        self.check.take().map_or(Ok(()), Aside::result)
    }

    pub(crate) fn model(&self) -> Model<'m> {
        match &self.engine {
            AnyEngine::Float(engine) => *engine.model(),
            AnyEngine::Integer(engine) => *engine.model(),
        }
    }

    pub(crate) fn isa(&self) -> Isa {
        match &self.engine {
            AnyEngine::Float(engine) => engine.isa(),
            AnyEngine::Integer(engine) => engine.isa(),
        }
    }

    /// Chooses the class of the following pictures.
    pub(crate) fn set_class(&mut self, class: Option<usize>) -> Result<()> {
        let chosen = match &mut self.engine {
            AnyEngine::Float(engine) => engine.set_class(class),
            AnyEngine::Integer(engine) => class
                .map_or(Ok(()), |class| Err(EngineError::Class { class, offered: engine.model().classes() })),
        };
        chosen.with_context(|| self.path.display().to_string())
    }

    /// Makes a picture and says after each node, by its index, that it has been computed.
    pub(crate) fn observe(
        &mut self,
        seed: u64,
        steps: usize,
        after: &mut (dyn FnMut(usize) + Send),
    ) -> Result<()> {
        let made = match &mut self.engine {
            AnyEngine::Float(engine) => {
                let (nodes, mut index) = (engine.model().nodes().len(), 0);
                let mut count = |_| {
                    after(index % nodes);
                    index += 1;
                };
                engine.observe(seed, steps, &mut count).map(drop)
            }
            AnyEngine::Integer(engine) => engine.observe(seed, steps, &mut |_, index, _| after(index)),
        };
        made.with_context(|| self.path.display().to_string())?;
        self.checked()
    }

    pub(crate) fn self_test(&mut self) -> Result<()> {
        let result = match &mut self.engine {
            AnyEngine::Float(_) => Err(anyhow!("only a file of integers has one")),
            AnyEngine::Integer(engine) => engine.self_test().map_err(Into::into),
        };
        result.with_context(|| format!("the self-test of {}", self.path.display()))
    }

    /// The bytes of a picture, by row, column and channel.
    pub(crate) fn picture(&mut self, seed: Source, steps: usize) -> Result<Vec<u8>> {
        let picture = self.engine.picture(seed, steps).with_context(|| self.path.display().to_string())?;
        self.checked()?;
        Ok(picture)
    }
}

impl AnyEngine<'_, '_> {
    fn picture(&mut self, seed: Source, steps: usize) -> Result<Vec<u8>, EngineError> {
        match self {
            Self::Float(engine) => {
                let shape = engine.model().image().shape();
                let picture = match seed {
                    Source::Seed(seed) => engine.generate(seed, steps),
                    Source::Between(seeds, at) => engine.mix(&Mix::new(seeds, at), steps),
                }?;
                Ok(traflow_runtime::bytes(picture, shape).collect())
            }
            Self::Integer(engine) => {
                let picture = match seed {
                    Source::Seed(seed) => engine.generate(seed, steps),
                    Source::Between(seeds, at) => engine.mix(&Mix::new(seeds, at), steps),
                }?;
                Ok(picture.bytes().collect())
            }
        }
    }
}
