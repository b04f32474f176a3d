package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/hasher"
	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/poll"
	"armarium/daemon/store"
)

// hashUnits shows units to the hasher.
type hashUnits struct{ *units }

func (h hashUnits) Unit(id lockss.AUID) (hasher.Unit, bool) {
	x, ok := h.active(id)
	if !ok {
		return nil, false
	}
	p := x.Plugin()
	if p == nil {
		return nil, false
	}
	return hashUnit{x, p}, true
}

type hashUnit struct {
	unit *au.Unit
	au   *plugin.AU
}

func (h hashUnit) BeginHash(ctx context.Context) (func(), error) { return h.unit.BeginHash(ctx) }

func (h hashUnit) Walk(ctx context.Context, fn func(string) error) error {
	return h.unit.Content().Walk(ctx, fn)
}

func (h hashUnit) Included(url string) bool          { return h.au.Included(url) }
func (h hashUnit) ExcludedFromPolls(url string) bool { return h.au.ExcludedFromPolls(url) }

func (h hashUnit) Bytes() int64 {
	s, err := h.unit.Content().Summary()
	if err != nil {
		return 0
	}
	return s.Bytes
}

func (h hashUnit) Versions(url string, max int) ([]hasher.Version, error) {
	vs, err := h.unit.Content().Versions(url, max)
	if errors.Is(err, store.ErrNotPreserved) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]hasher.Version, len(vs))
	for i, v := range vs {
		out[i] = hasher.Version{Size: v.Size, Open: func() (io.ReadCloser, error) { return v.OpenContent() }}
	}
	return out, nil
}

// pollHasher is the hasher as polls ask it.
type pollHasher struct{ h *hasher.Hasher }

func (p pollHasher) Hash(ctx context.Context, r poll.HashRequest, emit func(lcap.HashedBlock) error) error {
	return pollError(p.h.Hash(ctx, hasher.Request(r), emit))
}

func (p pollHasher) Estimate(id lockss.AUID) time.Duration { return p.h.Estimate(id) }

func (p pollHasher) Reserve(id lockss.AUID, start, deadline time.Time, d time.Duration) error {
	return pollError(p.h.Reserve(id, start, deadline, d))
}

// pollError gives the hasher's errors the names that polls know. A hash that waited for a
// crawl until its deadline had no time; it was not too slow.
func pollError(err error) error {
	for _, e := range []struct{ is, as error }{
		{hasher.ErrNoTime, poll.ErrNoTime}, {hasher.ErrTimeout, poll.ErrTimeout}, {hasher.ErrNoAU, poll.ErrNoUnit},
	} {
		if errors.Is(err, e.is) {
			return fmt.Errorf("%w: %w", e.as, err)
		}
	}
	return err
}

// Release takes back a promise that is not needed (poll.Releaser).
func (p pollHasher) Release(id lockss.AUID, deadline time.Time) { p.h.Release(id, deadline) }
