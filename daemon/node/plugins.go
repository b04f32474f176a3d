package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/keystore"
	"armarium/daemon/plugin"
)

// PluginParams say where plugins come from and who may sign them (plugin-packaging.md 3, 4).
type PluginParams struct {
	Registries     []string `prop:"org.lockss.plugin.registries" default:""`
	UserRegistries []string `prop:"org.lockss.plugin.userRegistries" default:""`
	UseDefault     bool     `prop:"org.lockss.plugin.useDefaultRegistries" default:"true"`
	Retract        []string `prop:"org.lockss.plugin.retract" default:""` // plugin ids not to be loaded

	Keystore         string `prop:"org.lockss.plugin.keystore.location" default:""`
	KeystorePassword string `prop:"org.lockss.plugin.keystore.password" default:""`
	UserKeystore     string `prop:"org.lockss.plugin.userKeystore.location" default:""` // replaces the network's
	UserPassword     string `prop:"org.lockss.plugin.userKeystore.password" default:""`

	Jar plugin.JarOptions
}

// registries lists their addresses.
func (p PluginParams) registries() []string {
	if !p.UseDefault {
		return p.UserRegistries
	}
	return slices.Concat(p.Registries, p.UserRegistries)
}

// keystore gives the location of the keystore in force, and its password.
func (p PluginParams) keystore() (location, password string) {
	if p.UserKeystore != "" {
		return p.UserKeystore, p.UserPassword
	}
	return p.Keystore, p.KeystorePassword
}

const (
	maxKeystore  = 4 << 20
	maxJar       = 64 << 20
	keystoreTime = 30 * time.Second // to fetch it
)

// A keeper of files keeps the last good keystore (config.Loader).
type files interface {
	Keep(file string, b []byte) error
	Kept(file string) ([]byte, error)
}

// shelf holds the loaded plugins: of each id the newest version found in a jar that is
// rightly signed.
//
// The keystore is read at the start, when its parameters change, and before jars of a
// registry that was crawled are judged: what the network's operator added counts at once. One
// that came over the network is copied into the config directory; a node that cannot fetch it
// takes the copy, so that it has its plugins again after a start without property server.
type shelf struct {
	reg   *au.Registry
	files files
	log   *slog.Logger

	work     sync.Mutex // one change at a time, with what follows; held over disk and network
	params   PluginParams
	trust    *keystore.Trust
	location string         // where trust came from
	setup    error          // of the registries
	kept     [32]byte       // digest of the keystore that was copied last
	versions map[string]int // unit and jar URL: version of its content that was processed last

	mu      sync.Mutex // what the faces look at, held briefly
	loaded  map[string]loaded
	refused map[string]string // jar URL: why it, or a plugin in it, is not used
	fault   error             // of keystore or registries
	fresh   bool              // the keystore is the one that its location has
}

type loaded struct {
	def    *plugin.Definition
	number int64
	jar    string
	signer string
}

func newShelf(reg *au.Registry, f files, log *slog.Logger) *shelf {
	return &shelf{reg: reg, files: f, log: log, versions: map[string]int{}, loaded: map[string]loaded{}, refused: map[string]string{}}
}

// configure sets up the registries, reads the keystore when another one is wanted, and loads
// what can be loaded.
func (s *shelf) configure(ctx context.Context, p PluginParams) {
	s.work.Lock()
	defer s.work.Unlock()
	s.setup = nil
	for _, u := range p.registries() {
		if _, err := s.reg.AddRegistryAU(u); err != nil {
			s.setup = errors.Join(s.setup, err)
			s.log.Error("plugin registry not set up", "url", u, "err", err)
		}
	}
	location, password := p.keystore()
	oldLocation, oldPassword := s.params.keystore()
	s.params = p
	if location != oldLocation || password != oldPassword || s.trust == nil {
		s.read(ctx)
	}
	s.process(ctx)
}

// refresh reads the keystore again, then loads what the registries have now.
func (s *shelf) refresh(ctx context.Context) {
	s.work.Lock()
	defer s.work.Unlock()
	s.read(ctx)
	s.process(ctx)
}

// read reads the keystore and notes what is wrong with it. Work is held.
func (s *shelf) read(ctx context.Context) {
	fresh, err := s.readKeystore(ctx)
	if err != nil {
		s.trust = nil
		s.log.Error("no plugin is trusted", "err", err)
	}
	s.mu.Lock()
	s.fresh, s.fault = fresh, errors.Join(s.setup, err)
	s.mu.Unlock()
}

// readKeystore reads the keystore; when it does not come, the one in force stays, or its copy
// is taken. The error says why no plugin can be trusted.
func (s *shelf) readKeystore(ctx context.Context) (fresh bool, err error) {
	location, password := s.params.keystore()
	if location == "" {
		s.trust, s.location = nil, ""
		if len(s.params.registries()) > 0 {
			err = errors.New("no plugin keystore is configured: set org.lockss.plugin.keystore.location")
		}
		return true, err
	}
	// The copy bears the location in its name: another keystore has another copy.
	name := fmt.Sprintf("plugin-keystore-%.8x.copy", sha256.Sum256([]byte(location)))
	b, err := readLocation(ctx, location)
	var trust *keystore.Trust
	if err == nil {
		trust, err = keystore.ParseTrust(b, password)
	}
	if err == nil {
		if d := sha256.Sum256(b); d != s.kept || location != s.location {
			s.log.Info("plugin keystore read", "file", location, "certificates", len(trust.Entries()))
			if isRemote(location) {
				if err := s.files.Keep(name, b); err != nil {
					s.log.Warn("plugin keystore not copied", "err", err)
				}
			}
			s.kept = d
		}
		s.trust, s.location = trust, location
		return true, nil
	}
	if s.trust != nil && location == s.location {
		s.log.Warn("plugin keystore not read again; the one read before stays in force", "file", location, "err", err)
		return false, nil
	}
	b, kerr := s.files.Kept(name)
	if kerr == nil {
		trust, kerr = keystore.ParseTrust(b, password)
	}
	if kerr != nil {
		return false, fmt.Errorf("plugin keystore %s: %w", location, err)
	}
	s.log.Warn("plugin keystore not read; its last good copy is used", "file", location, "copy", name, "err", err)
	s.trust, s.location = trust, location
	return false, nil
}

func isRemote(location string) bool {
	return strings.HasPrefix(location, "http://") || strings.HasPrefix(location, "https://")
}

func readLocation(ctx context.Context, location string) ([]byte, error) {
	if !isRemote(location) {
		return os.ReadFile(strings.TrimPrefix(location, "file:"))
	}
	ctx, cancel := context.WithTimeout(ctx, keystoreTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s", resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxKeystore+1))
	if err == nil && len(b) > maxKeystore {
		err = fmt.Errorf("longer than %d bytes", maxKeystore)
	}
	return b, err
}

// process loads the jars of every registry whose version is not the one processed last
// (plugin-packaging.md 4.4), and gives the plugins to the units. Work is held.
func (s *shelf) process(ctx context.Context) {
	if s.trust == nil {
		return
	}
	changed := false
	for _, u := range s.reg.Units() {
		if !u.IsRegistry() || u.Content() == nil {
			continue
		}
		err := u.Content().Walk(ctx, func(url string) error {
			if strings.HasSuffix(strings.ToLower(url), ".jar") && s.jar(u, url) {
				changed = true
			}
			return nil
		})
		if err != nil {
			s.log.Error("plugin registry not read", "au", u.ID(), "err", err)
		}
	}
	if changed {
		var defs []*plugin.Definition
		s.mu.Lock()
		for _, l := range s.loaded {
			defs = append(defs, l.def)
		}
		s.mu.Unlock()
		s.reg.SetPlugins(defs)
	}
}

// jar loads one archive and reports whether any plugin changed.
func (s *shelf) jar(u *au.Unit, url string) (changed bool) {
	v, err := u.Content().Current(url)
	key := string(u.ID()) + " " + url
	if err != nil || s.versions[key] == v.Number {
		return false
	}
	if v.Size == 0 { // retracted
		s.refuse(url, nil)
		return false
	}
	b, err := readJar(v)
	var jar *plugin.Jar
	if err == nil {
		jar, err = plugin.OpenJar(b, s.trust, s.params.Jar)
	}
	if err != nil {
		s.log.Error("plugin archive refused", "url", url, "err", err)
		s.refuse(url, err)
		return false
	}
	s.versions[key] = v.Number
	s.log.Info("plugin archive fetched, signature verified", "url", url, "signer", jar.Signer, "algorithm", jar.Algorithm, "trusted", jar.Trusted)
	for _, w := range jar.Warnings {
		s.log.Warn("plugin archive", "url", url, "warning", w)
	}
	failures := jar.Failures
	for _, d := range jar.Definitions {
		n, err := d.VersionNumber()
		if err != nil {
			failures = append(failures, err)
			break
		}
		if slices.Contains(s.params.Retract, d.ID()) {
			s.log.Info("plugin retracted, not loaded", "plugin", d.ID(), "version", d.Version())
			continue
		}
		changed = s.load(loaded{def: d, number: n, jar: url, signer: jar.Signer}) || changed
	}
	for _, err := range failures {
		s.log.Error("plugin not loaded", "url", url, "err", err)
	}
	s.refuse(url, errors.Join(failures...))
	return changed
}

// load puts a plugin on the shelf, unless a version that is not older is there.
func (s *shelf) load(l loaded) bool {
	d := l.def
	s.mu.Lock()
	old, ok := s.loaded[d.ID()]
	newer := !ok || l.number > old.number
	if newer {
		s.loaded[d.ID()] = l
	}
	s.mu.Unlock()
	switch {
	case !newer && l.number < old.number:
		s.log.Warn("older plugin passed over", "plugin", d.ID(), "version", d.Version(), "loaded", old.def.Version(), "url", l.jar)
	case newer:
		s.log.Info("plugin loaded", "plugin", d.ID(), "version", d.Version(), "poll", d.PollVersion())
		for _, lack := range d.Unsupported() {
			s.log.Warn("plugin asks for something this node does not do", "plugin", d.ID(), "what", lack)
		}
	}
	return newer
}

func readJar(v interface {
	Open() (io.ReadCloser, error)
}) ([]byte, error) {
	r, err := v.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxJar+1))
	if err == nil && len(b) > maxJar {
		err = fmt.Errorf("longer than %d bytes", maxJar)
	}
	return b, err
}

// refuse notes why an archive is not used; nil: it is.
func (s *shelf) refuse(url string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, url)
	if err != nil {
		s.refused[url] = strings.TrimPrefix(oneLine(err), "plugin archive: ")
	}
}

// definition finds a loaded plugin.
func (s *shelf) definition(id string) (*plugin.Definition, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.loaded[id]
	return l.def, ok
}

// all lists the plugins by id, and what was refused by its URL.
func (s *shelf) all() (map[string]loaded, map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.loaded), maps.Clone(s.refused)
}

// absent says why a plugin is not there, as far as can be told.
func (s *shelf) absent(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := "its plugin " + id + " is not loaded"
	for _, url := range slices.Sorted(maps.Keys(s.refused)) {
		text += "; plugin archive " + path.Base(url) + " was refused: " + s.refused[url]
	}
	if s.fault != nil {
		text += "; " + oneLine(s.fault)
	}
	return text
}

// state tells what is wrong with keystore or registries, and whether the keystore is the one
// that its location has.
func (s *shelf) state() (fault error, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault, s.fresh
}

// oneLine is the text of an error, which may be several errors joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
