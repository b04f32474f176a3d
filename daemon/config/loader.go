// Package config makes one flat configuration out of many files, and keeps it current.
//
// A parameter is a name such as org.lockss.poll.v3.quorum with a text. A later source
// overwrites an earlier one, key by key (config.md 4):
//
//	groups        of the command line
//	URL list      of the command line: property server, then local.txt; each must load
//	aux files     org.lockss.auxPropUrls
//	title lists   org.lockss.titleDbs, org.lockss.userTitleDbs; title keys only
//	local files   of the config directory on the first disk: au.txt, expert_config.txt, …
//	derived       values that platform parameters give (config.md 3.1)
//
// A Loader reads them and gives a Snapshot, which never changes; Snapshot.Fill sets a
// service's Config struct from its field tags. No service reads parameters in another way,
// so the tags are the list of all parameters that exist, and any other org.lockss name is
// reported as unknown.
//
// Remote files are asked for with If-Modified-Since every reloadInterval; local ones are
// watched. When a new load fails the old configuration stays in force.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"armarium/daemon/javaprops"
)

// Options say where a configuration comes from.
type Options struct {
	URLs          []string // files and URLs in order; a name ending in .opt may be missing
	Groups        []string // preservation groups; none is "nogroup"
	DaemonVersion string   // the 1.x version to claim in conditions; "" is 1.74.0
	Log           *slog.Logger
}

// Loader reads the configuration again and again. Load and Run may be called from one
// goroutine at a time; WriteLocal from any.
type Loader struct {
	opt     Options
	log     *slog.Logger
	mu      sync.Mutex // local files
	sources map[string]*source
	dir     string // the config directory, once the disks are known
	reload  chan struct{}
	current *Snapshot
	reports map[string]bool // optional files whose fault has been logged
}

// params are the parameters of this package itself.
type params struct {
	ReloadInterval time.Duration `prop:"org.lockss.config.reloadInterval" default:"30m"`
	ConnectTimeout time.Duration `prop:"org.lockss.config.timeout.connect" default:"1m"`
	DataTimeout    time.Duration `prop:"org.lockss.config.timeout.data" default:"10m"`
	SendVersion    time.Duration `prop:"org.lockss.config.sendVersionEvery" default:"1d"` // 0: never
	Proxy          string        `prop:"org.lockss.platform.propsProxy" default:""`
	FilePath       string        `prop:"org.lockss.config.configFilePath" default:"config"`
	DiskPaths      []string      `prop:"org.lockss.platform.diskSpacePaths" default:""`
	Aux            []string      `prop:"org.lockss.auxPropUrls" default:""`
	TitleDBs       []string      `prop:"org.lockss.titleDbs" default:""`
	UserTitleDBs   []string      `prop:"org.lockss.userTitleDbs" default:""`
	ExpertAllow    []string      `prop:"org.lockss.config.expert.allow" default:""`
	ExpertDeny     []string      `prop:"org.lockss.config.expert.deny" default:"[pP]assword\\b;^org\\.lockss\\.platform\\.;^org\\.lockss\\.keystore\\.;^org\\.lockss\\.app\\.exit(Once|After|Immediately)$;org.lockss.daemon.groups;org.lockss.auxPropUrls;org.lockss.localIPAddress;org.lockss.localV3Identity;org.lockss.localV3Port;org.lockss.ui.subnetMaskBitsError;org.lockss.export.enabled;org.lockss.config.expert.allow;org.lockss.config.expert.deny;org.lockss.daemon.testingMode"`
	Groups         []string      `prop:"org.lockss.daemon.groups" default:""`
	Fqdn           string        `prop:"org.lockss.platform.fqdn" default:""`
	Version        string        `prop:"org.lockss.platform.version" default:""`
	Identity       string        `prop:"org.lockss.platform.v3.identity" default:""`
}

// Known gives the parameters that this package reads, with their defaults.
func Known() map[string]string { return Names(params{}) }

// localFiles of the config directory, in the order in which they are merged (config.md 4).
var localFiles = []string{"ui_ip_access.txt", "proxy_ip_access.txt", "plugin.txt", "au.txt",
	"content_servers_config.txt", "crawl_proxy.txt", "expert_config.txt"}

// NewLoader reports a missing URL list; it reads nothing.
func NewLoader(o Options) (*Loader, error) {
	if len(o.URLs) == 0 {
		return nil, errors.New("no configuration given: name a property URL or file with -p")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.DaemonVersion = cmp.Or(o.DaemonVersion, "1.74.0")
	for i, g := range o.Groups {
		o.Groups[i] = strings.ToLower(g)
	}
	return &Loader{opt: o, log: o.Log, sources: map[string]*source{}, reload: make(chan struct{}, 1),
		reports: map[string]bool{}}, nil
}

// Load reads every source and merges them. A source that must load and does not gives an
// error that names it; the last good configuration stays.
func (l *Loader) Load(ctx context.Context) (*Snapshot, error) {
	s := &Snapshot{values: map[string]string{}, origins: map[string]string{}}
	groups := strings.Join(l.opt.Groups, ";")
	s.set("org.lockss.daemon.groups", cmp.Or(groups, "nogroup"), "command line")

	platform := &Snapshot{values: map[string]string{}, origins: map[string]string{}}
	for _, name := range l.opt.URLs {
		if !isPlatform(name) || isRemote(name) {
			continue
		}
		m, err := l.read(ctx, nil, name, Facts{}, "")
		if err != nil {
			return nil, err
		}
		platform.merge(m, name)
	}
	var p params
	platform.Fill(&p)
	facts := l.facts(p)
	client := newClient(p.ConnectTimeout, p.DataTimeout, p.Proxy)
	defer client.CloseIdleConnections()

	for _, name := range l.opt.URLs {
		m, err := l.read(ctx, client, name, facts, l.info(name, p, facts))
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, ".opt") {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.merge(m, name)
	}
	s.Fill(&p)
	for _, list := range []struct {
		param     string
		titleOnly bool
	}{{"org.lockss.auxPropUrls", false}, {"org.lockss.titleDbs", true}, {"org.lockss.userTitleDbs", true}} {
		from := s.Origin(list.param)
		for _, name := range s.List(list.param) {
			l.optional(ctx, client, s, resolve(name, from), facts, list.titleOnly)
		}
	}
	if err := l.local(s, p); err != nil {
		return nil, err
	}
	derive(s)
	l.current = s
	return s, nil
}

// facts for the conditions, from platform parameters.
func (l *Loader) facts(p params) Facts {
	f := Facts{Groups: l.opt.Groups, Host: p.Fqdn, DaemonVersion: l.opt.DaemonVersion}
	if len(f.Groups) == 0 {
		f.Groups = []string{"nogroup"}
	}
	if p.Version != "" {
		f.PlatformName, f.PlatformVersion = splitPlatform(p.Version)
	}
	return f
}

// splitPlatform divides "Linux RPM-1" or "Appliance-1-debug" into name and version; a bare
// number is the historical "OpenBSD CD" (config.md 3).
func splitPlatform(v string) (name, version string) {
	if v[0] >= '0' && v[0] <= '9' {
		return "OpenBSD CD", v
	}
	name, version, _ = strings.Cut(v, "-")
	return name, version
}

// info is the X-Lockss-Info header, or "" when it is not due.
func (l *Loader) info(name string, p params, f Facts) string {
	src := l.sources[name]
	if !isRemote(name) || p.SendVersion <= 0 || (src != nil && time.Since(src.lastInfo) < p.SendVersion) {
		return ""
	}
	esc := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `=`, `\=`)
	var parts []string
	for _, kv := range [][2]string{{"platform", p.Version}, {"daemon", f.DaemonVersion},
		{"groups", strings.Join(f.Groups, ";")}, {"host", p.Fqdn}, {"peerid", p.Identity}} {
		if kv[1] != "" {
			parts = append(parts, kv[0]+"="+esc.Replace(kv[1]))
		}
	}
	return strings.Join(parts, ",")
}

func (l *Loader) read(ctx context.Context, c *http.Client, name string, facts Facts, info string) (map[string]string, error) {
	src := l.sources[name]
	if src == nil {
		src = &source{name: name}
		l.sources[name] = src
	}
	if _, err := src.read(ctx, c, info); err != nil {
		return nil, err
	}
	if info != "" {
		src.lastInfo = time.Now()
	}
	m, err := parse(name, src.body, facts)
	if err != nil {
		src.body = nil // a file that does not parse is asked for again
	}
	return m, err
}

// optional merges a file whose absence or fault only costs its own parameters.
func (l *Loader) optional(ctx context.Context, c *http.Client, s *Snapshot, name string, facts Facts, titleOnly bool) {
	m, err := l.read(ctx, c, name, facts, "")
	if err == nil && titleOnly {
		for k := range m {
			if !strings.HasPrefix(k, "org.lockss.title.") && !strings.HasPrefix(k, "org.lockss.titleSet.") {
				err = fmt.Errorf("%s: %s is not a title key; a title list may hold nothing else", name, k)
				break
			}
		}
	}
	if err != nil {
		l.report(name, err)
		return
	}
	delete(l.reports, name)
	s.merge(m, name)
}

// report logs the fault of an optional file once, until it is mended.
func (l *Loader) report(name string, err error) {
	if !l.reports[name] {
		l.reports[name] = true
		l.log.Warn("configuration file skipped", "file", name, "err", err)
	}
}

// local merges the files of the config directory.
func (l *Loader) local(s *Snapshot, p params) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, err := configDir(p)
	if err != nil || dir == "" {
		return err
	}
	l.dir = dir
	for _, f := range localFiles {
		path := filepath.Join(dir, f)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var m map[string]string
		if err == nil {
			m, err = javaprops.Parse(b)
		}
		if err == nil && f == "expert_config.txt" {
			m, err = l.filterExpert(m, p)
		}
		if err != nil {
			l.report(path, fmt.Errorf("%s: %w", path, err))
			continue
		}
		delete(l.reports, path)
		s.merge(m, path)
	}
	return nil
}

// configDir finds the config directory on any disk, else names it on the first.
func configDir(p params) (string, error) {
	if filepath.IsAbs(p.FilePath) {
		return p.FilePath, nil
	}
	if len(p.DiskPaths) == 0 {
		return "", nil
	}
	for _, d := range p.DiskPaths {
		dir := filepath.Join(d, p.FilePath)
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir, nil
		}
	}
	dir := filepath.Join(p.DiskPaths[0], p.FilePath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the config directory: %w", err)
	}
	return dir, nil
}

// filterExpert drops the keys that expert configuration may not set (config.md 4.5).
func (l *Loader) filterExpert(m map[string]string, p params) (map[string]string, error) {
	allow, err := compileAll(p.ExpertAllow)
	if err != nil {
		return nil, err
	}
	deny, err := compileAll(p.ExpertDeny)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for k, v := range m {
		if matchAny(allow, k) || (!matchAny(deny, k) && (len(deny) > 0 || len(allow) == 0)) {
			kept[k] = v
		} else {
			l.report("expert_config.txt "+k, fmt.Errorf("%s may not be set in the expert configuration", k))
		}
	}
	return kept, nil
}

func compileAll(patterns []string) ([]*regexp.Regexp, error) {
	var res []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("expert configuration is off: pattern %q: %w", p, err)
		}
		res = append(res, re)
	}
	return res, nil
}

func matchAny(res []*regexp.Regexp, s string) bool {
	return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(s) })
}

// derive makes the assignments of config.md 3.1 that this node uses.
func derive(s *Snapshot) {
	const why = "derived from platform parameters"
	for _, d := range [][2]string{{"org.lockss.platform.localIPAddress", "org.lockss.localIPAddress"},
		{"org.lockss.platform.v3.identity", "org.lockss.localV3Identity"},
		{"org.lockss.platform.smtphost", "org.lockss.mail.smtphost"},
		{"org.lockss.platform.smtpport", "org.lockss.mail.smtpport"}} {
		if v, ok := s.values[d[0]]; ok && v != "" {
			s.set(d[1], v, why)
		}
	}
	if subnet := s.values["org.lockss.platform.accesssubnet"]; subnet != "" {
		for _, face := range []string{"ui", "proxy"} {
			prefix := "org.lockss." + face + ".access.ip."
			if s.values[prefix+"platformAccess"] == subnet {
				continue
			}
			list := s.List(prefix + "include")
			for _, e := range SplitList(subnet) {
				if !slices.Contains(list, e) {
					list = append(list, e)
				}
			}
			s.set(prefix+"include", strings.Join(list, ";"), why)
		}
	}
	if disks := s.List("org.lockss.platform.diskSpacePaths"); len(disks) > 0 {
		s.set("org.lockss.cache.location", disks[0], why)
	}
}

// Dir is the config directory; "" before the first Load or without a disk.
func (l *Loader) Dir() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dir
}

// WriteLocal replaces one of the box's own files whole, durably, in 1.x form (config.md
// 4.2), and asks for a reload.
func (l *Loader) WriteLocal(file, comment string, props map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == "" {
		return fmt.Errorf("%s not written: there is no disk to keep it on", file)
	}
	all := map[string]string{"org.lockss.config.fileVersion." + strings.TrimSuffix(file, filepath.Ext(file)): "1"}
	for k, v := range props {
		all[k] = v
	}
	text := javaprops.Append(nil, []string{comment, time.Now().UTC().Format("Mon Jan 02 15:04:05 UTC 2006")}, all)
	if err := replaceFile(filepath.Join(l.dir, file), text); err != nil {
		return err
	}
	select {
	case l.reload <- struct{}{}:
	default:
	}
	return nil
}

func replaceFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "tmp_config*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Run reloads when a local file changes, when WriteLocal asked for it, and every
// reloadInterval give or take a quarter; it calls changed, on its own goroutine, for each
// configuration that differs from the one before. It returns when ctx ends.
func (l *Loader) Run(ctx context.Context, changed func(*Snapshot)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration files: %w", err)
	}
	defer w.Close()
	for _, dir := range l.watched() {
		if err := w.Add(dir); err != nil {
			l.log.Warn("configuration directory not watched; it is read every reload interval", "dir", dir, "err", err)
		}
	}
	for {
		var p params
		if l.current != nil {
			l.current.Fill(&p)
		}
		interval := cmp.Or(p.ReloadInterval, 30*time.Minute)
		timer := time.NewTimer(interval*3/4 + rand.N(interval/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		case <-l.reload:
		case ev := <-w.Events:
			if !l.concerns(ev.Name) {
				timer.Stop()
				continue
			}
		}
		timer.Stop()
		old := l.current
		s, err := l.Load(ctx)
		if err != nil {
			l.log.Error("configuration not reloaded; the last one stays in force", "err", err)
			continue
		}
		if !s.Equal(old) {
			changed(s)
		}
	}
}

// watched gives the directories of local files.
func (l *Loader) watched() []string {
	dirs := map[string]bool{}
	for name := range l.sources {
		if !isRemote(name) {
			dirs[filepath.Dir(strings.TrimPrefix(name, "file:"))] = true
		}
	}
	if d := l.Dir(); d != "" {
		dirs[d] = true
	}
	var list []string
	for d := range dirs {
		list = append(list, d)
	}
	return list
}

func (l *Loader) concerns(path string) bool {
	if filepath.Dir(path) == l.Dir() && slices.Contains(localFiles, filepath.Base(path)) {
		return true
	}
	for name := range l.sources {
		if !isRemote(name) && filepath.Clean(strings.TrimPrefix(name, "file:")) == filepath.Clean(path) {
			return true
		}
	}
	return false
}
