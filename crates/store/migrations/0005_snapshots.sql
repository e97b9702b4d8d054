-- When an image is forgotten; none: when it is deleted. Snapshots have such a time.
ALTER TABLE images ADD COLUMN expires_at INTEGER;
CREATE INDEX images_to_expire ON images (expires_at) WHERE expires_at IS NOT NULL AND state = 2;
