//! Functions at hand: parsed once, dropped when their definition changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::FunctionId;
use model::call::Rules;
use model::spec::FunctionSpec;
use store::functions::Function;
use store::{Db, functions};

/// Functions that were looked at lately.
#[derive(Debug, Default)]
pub struct Functions(Mutex<HashMap<FunctionId, Arc<Function>>>);

/// Functions that are kept at hand.
const CACHED_MAX: usize = 4_096;

impl Functions {
    /// The function of that id, whoever owns it.
    pub async fn get(
        &self,
        db: &mut Db,
        id: &FunctionId,
    ) -> Result<Option<Arc<Function>>, store::Error> {
        if let Some(function) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some(function.clone()));
        }
        let Some(function) = functions::get_any(db, id).await? else { return Ok(None) };
        let function = Arc::new(function);
        if function.spec.is_some() {
            let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if cached.len() >= CACHED_MAX {
                cached.clear();
            }
            cached.insert(id.clone(), function.clone());
        }
        Ok(Some(function))
    }

    /// Drops what is at hand of a function.
    pub fn forget(&self, id: &FunctionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// The rules under which a function's inputs live.
pub fn rules(spec: &FunctionSpec) -> Rules {
    Rules { timeout_ms: spec.timeout_ms, retry: spec.retry }
}
