package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Stale counts the units whose index has to be rebuilt. Until [Store.Refresh] has done so,
// totals and listings of such a unit take a walk.
func (s *Store) Stale() int {
	n := 0
	for _, r := range s.roots {
		for _, u := range s.on(r) {
			if u.entry.isStale() {
				n++
			}
		}
	}
	return n
}

// Refresh rebuilds the index of the units where it is stale. Progress, when not nil, is called
// on the caller's goroutine before the first unit and after each.
func (s *Store) Refresh(ctx context.Context, progress func(done, total int)) error {
	return s.rebuildAll(ctx, progress, (*entry).isStale)
}

// Rebuild rebuilds the index of all units from the trees, as Refresh does. Meanwhile the
// store can be used as always.
func (s *Store) Rebuild(ctx context.Context, progress func(done, total int)) error {
	return s.rebuildAll(ctx, progress, func(*entry) bool { return true })
}

func (s *Store) rebuildAll(ctx context.Context, progress func(done, total int), which func(*entry) bool) error {
	var units []*Unit
	for _, r := range s.roots {
		for _, u := range s.on(r) {
			if which(&u.entry) {
				units = append(units, u)
			}
		}
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	progress(0, len(units))
	var errs []error
	for i, u := range units {
		if err := u.rebuild(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			errs = append(errs, err) // one damaged directory is no reason to leave out the others
		}
		progress(i+1, len(units))
	}
	return errors.Join(errs...)
}

// rebuildBatch is how many URLs go into the index at once.
const rebuildBatch = 500

// rebuild makes the unit's part of the index anew from its tree.
func (u *Unit) rebuild(ctx context.Context) error {
	e := &u.entry
	e.build.Lock()
	defer e.build.Unlock()
	e.mu.Lock()
	e.gen = now()
	e.again = make(map[string][]string)
	row, gen := e.row, e.gen
	e.mu.Unlock()
	err := u.rebuildFrom(ctx, row, gen)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again = nil
	// A rebuild that was cut short, or that lost its file underneath, leaves the unit stale.
	e.stale = err != nil || e.row != row
	if err != nil {
		return fmt.Errorf("rebuild index of %s: %w", u.id, err)
	}
	return nil
}

func (u *Unit) rebuildFrom(ctx context.Context, row, gen int64) error {
	ix := u.root.index
	err := ix.use(func(db *sql.DB) error {
		_, err := db.Exec("UPDATE unit SET complete = 0 WHERE id = ?", row)
		return err
	})
	if err != nil {
		return err
	}
	top, sites := u.evidence() // before the walk: what changes during it makes a difference
	var batch []Item
	flush := func() error {
		defer func() { batch = batch[:0] }()
		return ix.use(func(db *sql.DB) error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer tx.Rollback()
			put, err := tx.Prepare(upsert)
			if err != nil {
				return err
			}
			defer put.Close()
			for _, it := range batch {
				if _, err := put.Exec(row, urlKey(it.URL), it.Version, it.Size, it.Checksum, it.Versions, gen); err != nil {
					return err
				}
			}
			return tx.Commit()
		})
	}
	err = u.walk(ctx, func(node string, comps []string) error {
		c, err := u.look(comps) // recovers
		if err == nil {
			c.close()
			lock := u.store.lock(u, comps)
			lock.RLock()
			var it Item
			it, err = u.item(node, comps)
			lock.RUnlock()
			if err == nil {
				batch = append(batch, it)
			}
		}
		if err != nil && !errors.Is(err, ErrNotPreserved) {
			return err
		}
		if len(batch) >= rebuildBatch {
			return flush()
		}
		return nil
	}, func(e *LayoutError) {
		u.store.log.Warn("disk layout", "au", u.id, "path", e.Path, "err", e.Err, "hint", e.Hint)
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}

	// What was stored meanwhile may have been read before and written after. Such nodes are
	// read again, each with its lock held until it is written.
	e := &u.entry
	for {
		e.mu.Lock()
		again := e.again
		e.again = make(map[string][]string)
		e.mu.Unlock()
		if len(again) == 0 {
			break
		}
		for _, comps := range again {
			lock := u.store.lock(u, comps)
			lock.RLock()
			err := ix.put(u, comps, row, gen)
			lock.RUnlock()
			if err != nil {
				return err
			}
		}
	}
	e.dirty.Lock()
	defer e.dirty.Unlock()
	return ix.use(func(db *sql.DB) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.Exec("DELETE FROM url WHERE unit = ? AND gen <> ?", row, gen); err != nil {
			return err
		}
		e.mu.Lock()
		marked := e.marked
		e.touched = true
		e.mu.Unlock()
		if _, err := tx.Exec("UPDATE unit SET complete = 1, dirty = ?, top = ?, sites = ? WHERE id = ?", marked, top, sites, row); err != nil {
			return err
		}
		return tx.Commit()
	})
}
