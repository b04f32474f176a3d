package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
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

const (
	maxKeystore = 4 << 20
	maxJar      = 64 << 20
)

// shelf holds the loaded plugins: of each id the newest version found in a jar that is
// rightly signed.
type shelf struct {
	reg *au.Registry
	log *slog.Logger

	mu       sync.Mutex
	params   PluginParams
	trust    *keystore.Trust
	location string            // where trust came from
	versions map[string]int    // jar URL: version of its content that was processed last
	loaded   map[string]loaded // by plugin id
}

type loaded struct {
	def    *plugin.Definition
	number int64
	jar    string
	signer string
}

func newShelf(reg *au.Registry, log *slog.Logger) *shelf {
	return &shelf{reg: reg, log: log, versions: map[string]int{}, loaded: map[string]loaded{}}
}

// configure sets up the registries and, when it changed, the keystore.
func (s *shelf) configure(ctx context.Context, p PluginParams) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	location, password := p.Keystore, p.KeystorePassword
	if p.UserKeystore != "" {
		location, password = p.UserKeystore, p.UserPassword
	}
	s.params = p
	urls := p.UserRegistries
	if p.UseDefault {
		urls = append(slices.Clone(p.Registries), urls...)
	}
	for _, u := range urls {
		if _, err := s.reg.AddRegistryAU(u); err != nil {
			s.log.Error("plugin registry not set up", "url", u, "err", err)
		}
	}
	if location == "" {
		if len(urls) > 0 {
			return fmt.Errorf("no plugin keystore is configured, so no plugin is trusted: set org.lockss.plugin.keystore.location")
		}
		return nil
	}
	if location == s.location && s.trust != nil {
		return nil
	}
	b, err := readLocation(ctx, location)
	if err == nil {
		s.trust, err = keystore.ParseTrust(b, password)
	}
	if err != nil {
		return fmt.Errorf("plugin keystore %s: %w", location, err)
	}
	s.location = location
	s.log.Info("plugin keystore read", "file", location, "certificates", len(s.trust.Entries()))
	return nil
}

func readLocation(ctx context.Context, location string) ([]byte, error) {
	if !strings.HasPrefix(location, "http://") && !strings.HasPrefix(location, "https://") {
		return os.ReadFile(strings.TrimPrefix(location, "file:"))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
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
// (plugin-packaging.md 4.4), and gives the plugins to the units.
func (s *shelf) process(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
		for _, l := range s.loaded {
			defs = append(defs, l.def)
		}
		s.reg.SetPlugins(defs)
	}
}

// jar loads one archive and reports whether any plugin changed.
func (s *shelf) jar(u *au.Unit, url string) (changed bool) {
	v, err := u.Content().Current(url)
	if err != nil || s.versions[url] == v.Number || v.Size == 0 {
		return false
	}
	if v.Size > maxJar {
		s.log.Error("plugin archive refused", "url", url, "err", fmt.Sprintf("longer than %d bytes", maxJar))
		return false
	}
	r, err := v.Open()
	if err != nil {
		s.log.Error("plugin archive not read", "url", url, "err", err)
		return false
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxJar))
	if err != nil {
		s.log.Error("plugin archive not read", "url", url, "err", err)
		return false
	}
	jar, err := plugin.OpenJar(b, s.trust, s.params.Jar)
	if err != nil {
		s.log.Error("plugin archive refused: its signature is not accepted", "url", url, "err", err)
		return false
	}
	s.versions[url] = v.Number
	s.log.Info("plugin fetched, signature verified", "url", url, "signer", jar.Signer, "algorithm", jar.Algorithm, "trusted", jar.Trusted)
	for _, w := range jar.Warnings {
		s.log.Warn("plugin archive", "url", url, "warning", w)
	}
	for _, err := range jar.Failures {
		s.log.Error("plugin not loaded", "url", url, "err", err)
	}
	for _, d := range jar.Definitions {
		if slices.Contains(s.params.Retract, d.ID()) {
			continue
		}
		n, err := d.VersionNumber()
		if err != nil {
			s.log.Error("plugin not loaded", "url", url, "plugin", d.ID(), "err", err)
			return changed
		}
		if old, ok := s.loaded[d.ID()]; ok && n <= old.number {
			continue
		}
		s.loaded[d.ID()] = loaded{def: d, number: n, jar: url, signer: jar.Signer}
		s.log.Info("plugin loaded", "plugin", d.ID(), "version", d.Version(), "poll", d.PollVersion())
		changed = true
	}
	return changed
}

// definition finds a loaded plugin.
func (s *shelf) definition(id string) (*plugin.Definition, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.loaded[id]
	return l.def, ok
}
