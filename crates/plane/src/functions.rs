//! Functions at hand: parsed once, dropped when their definition changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::FunctionId;
use model::call::Rules;
use model::spec::FunctionSpec;
use store::functions::Function;
use store::{Db, functions};

/// Functions that were looked at lately.
#[derive(Debug, Default)]
pub struct Functions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    functions: HashMap<FunctionId, Arc<Function>>,
    /// How often something was dropped: what was read before the last time may be outdated.
    dropped: u64,
}

/// Functions that are kept at hand.
const CACHED_MAX: usize = 4_096;

impl Functions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function of that id, whoever owns it.
    pub async fn get(
        &self,
        db: &mut Db,
        id: &FunctionId,
    ) -> Result<Option<Arc<Function>>, store::Error> {
        let dropped = {
            let kept = self.kept();
            if let Some(function) = kept.functions.get(id) {
                return Ok(Some(function.clone()));
            }
            kept.dropped
        };
        let Some(function) = functions::get_any(db, id).await? else { return Ok(None) };
        let function = Arc::new(function);
        let mut kept = self.kept();
        if function.spec.is_some() && kept.dropped == dropped {
            if kept.functions.len() >= CACHED_MAX {
                kept.functions.clear();
            }
            kept.functions.insert(id.clone(), function.clone());
        }
        Ok(Some(function))
    }

    /// Drops what is at hand of a function. Call it once the new definition is committed.
    pub fn forget(&self, id: &FunctionId) {
        let mut kept = self.kept();
        kept.functions.remove(id);
        kept.dropped += 1;
    }
}

/// The rules under which a function's inputs live.
pub fn rules(spec: &FunctionSpec) -> Rules {
    Rules { timeout_ms: spec.timeout_ms, retry: spec.retry }
}
