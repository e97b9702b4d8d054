//! Nouns that live in an environment, with a name or without: how they are found is the same for
//! each.

/// Writes `get`, `by_name` and `list` of a noun, for its module: its word, its table, its type and
/// its id's. The module has `read`, which makes one of a row.
macro_rules! find_named {
    ($word:literal, $table:literal, $Noun:ty, $Id:ty) => {
        #[doc = concat!("The ", $word, " of that id.")]
        pub async fn get(
            db: &mut $crate::Db,
            scope: &$crate::Scope,
            id: &$Id,
        ) -> $crate::Result<Option<$Noun>> {
            let sql = concat!("SELECT * FROM ", $table, " WHERE id = $1 AND workspace_id = $2");
            let row = sqlx::query(sql)
                .bind(id.as_str())
                .bind(scope.workspace.as_str())
                .fetch_optional(db)
                .await?;
            row.as_ref().map(read).transpose()
        }

        #[doc = concat!("The ", $word, " of that name.")]
        pub async fn by_name(
            db: &mut $crate::Db,
            scope: &$crate::Scope,
            environment: &model::EnvironmentId,
            name: &str,
        ) -> $crate::Result<Option<$Noun>> {
            let sql = concat!(
                "SELECT * FROM ",
                $table,
                " WHERE workspace_id = $1 AND environment_id = $2 AND name = $3"
            );
            let row = sqlx::query(sql)
                .bind(scope.workspace.as_str())
                .bind(environment.as_str())
                .bind(name)
                .fetch_optional(db)
                .await?;
            row.as_ref().map(read).transpose()
        }

        #[doc = concat!("Named ", $table, " of an environment that were made before `before`, \
            newest first: `most` of them, and those that were made in the same moment as the \
            last, so that a next page can begin there.")]
        pub async fn list(
            db: &mut $crate::Db,
            scope: &$crate::Scope,
            environment: &model::EnvironmentId,
            before: model::Time,
            most: u32,
        ) -> $crate::Result<Vec<$Noun>> {
            let sql = concat!(
                "SELECT * FROM ",
                $table,
                " WHERE workspace_id = $1 AND environment_id = $2 \
                 AND name IS NOT NULL AND created_at < $3 AND created_at >= coalesce((SELECT \
                 created_at FROM ",
                $table,
                " WHERE workspace_id = $1 AND environment_id = $2 AND name \
                 IS NOT NULL AND created_at < $3 ORDER BY created_at DESC LIMIT 1 OFFSET $4), 0) \
                 ORDER BY created_at DESC, name"
            );
            let rows = sqlx::query(sql)
                .bind(scope.workspace.as_str())
                .bind(environment.as_str())
                .bind($crate::row::int(before.0))
                .bind(most.saturating_sub(1))
                .fetch_all(db)
                .await?;
            rows.iter().map(read).collect()
        }
    };
}

pub(crate) use find_named;
