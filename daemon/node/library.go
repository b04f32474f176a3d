package node

import (
	"errors"
	"fmt"

	"armarium/daemon/lockss"
	"armarium/daemon/serve"
	"armarium/daemon/store"
)

// library finds preserved content for readers (serve.Library).
type library struct{ *units }

// Lookup gives the current version of a URL in the given unit, or in the best of those that
// hold it.
func (l library) Lookup(url string, id lockss.AUID) (*store.Version, lockss.AUID, error) {
	if id != "" {
		u, ok := l.reg.Unit(id)
		if !ok || u.Content() == nil {
			return nil, "", l.missing(fmt.Errorf("%s: %w", id, store.ErrNoUnit))
		}
		v, err := u.Content().Current(url)
		if err != nil {
			return nil, "", l.missing(err)
		}
		return v, id, nil
	}
	err := fmt.Errorf("%s: %w", url, store.ErrNotPreserved)
	for _, u := range l.reg.Holding(url) {
		p := u.Plugin()
		if u.IsRegistry() || (p != nil && !p.Included(url)) {
			continue
		}
		v, verr := u.Content().Current(url)
		if verr == nil && v.BodyErr == nil {
			return v, u.ID(), nil
		}
		err = errors.Join(err, verr)
	}
	return nil, "", l.missing(err)
}

// missing says that the answer may be another one soon, while units are being started.
func (l library) missing(err error) error {
	if !l.ready.Load() {
		return fmt.Errorf("%w: %w", serve.ErrStarting, err)
	}
	return err
}

// Collections lists what readers may browse.
func (l library) Collections() []serve.Collection {
	var list []serve.Collection
	for _, u := range l.reg.Units() {
		if u.IsRegistry() || u.Content() == nil {
			continue
		}
		c := serve.Collection{AU: u.ID(), Name: u.Name(), Collected: u.State().Crawled()}
		if p := u.Plugin(); p != nil {
			c.StartURLs = p.StartURLs()
		}
		list = append(list, c)
	}
	return list
}
