//! Sandboxes: where they go, what workers report of them, how they end.

mod endings;
mod placement;
mod reach;
mod reported;

pub use reach::{Opening, Piece, Reach, Taken, Unreached};

pub(crate) use reported::{Unopened, adopt, ended, forget_lost, log, started};

use model::TaskId;
use store::sandboxes::connect_tokens::{self, Opened};

use crate::Plane;
use crate::identity::secret_hash;

impl Plane {
    /// What a token opens that lets its holder connect; nothing if it is not good any more.
    pub async fn resolve_connect_token(&self, token: &str) -> Result<Option<Opened>, store::Error> {
        let mut db = self.store.read().await?;
        connect_tokens::find(&mut db, &secret_hash(token), self.now()).await
    }

    /// Variables of secrets for a program in a container, in their order; nothing if there is no
    /// such living one, and the id of the first secret that its workspace does not have.
    pub async fn secrets_for(
        &self,
        task: &TaskId,
        ids: &[model::SecretId],
    ) -> Result<Option<Result<Vec<(String, String)>, model::SecretId>>, store::Error> {
        let mut db = self.store.read().await?;
        let sandbox = store::sandboxes::by_task_any(&mut db, task).await?;
        let sandbox = sandbox.filter(|sandbox| sandbox.phase < store::sandboxes::Phase::Ended);
        let workspace = match sandbox {
            Some(sandbox) => Some(sandbox.workspace),
            None => {
                let task = store::tasks::get_any(&mut db, task).await?;
                let task = task.filter(|task| task.phase < store::tasks::Phase::Ended);
                task.map(|task| task.workspace)
            }
        };
        let Some(workspace) = workspace else { return Ok(None) };
        let scope = store::Scope { workspace };
        let mut env = Vec::new();
        for id in ids {
            match store::secrets::get(&mut db, &scope, id).await? {
                Some(secret) => env.extend(secret.env),
                None => return Ok(Some(Err(id.clone()))),
            }
        }
        Ok(Some(Ok(env)))
    }
}
