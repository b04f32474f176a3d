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
// A required source that fails (of the URL list) fails the whole load, and the configuration
// before stays in force; at the start there is none before, and the node waits (copies of
// remote files to start from, config.md 7.3, are not kept). Another source that fails costs
// its own parameters only, or keeps those it had if it is a local file. Fault says what is
// wrong.
//
// A Loader reads them and gives a Snapshot, which never changes; Snapshot.Fill sets a
// service's Config struct from its field tags. No service reads parameters in another way,
// so the tags are the list of all parameters that exist, and any other org.lockss name is
// reported as unknown.
//
// Remote files are asked for with If-Modified-Since every reloadInterval; local ones are
// watched.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
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
// goroutine at a time, all other methods from any.
type Loader struct {
	opt     Options
	log     *slog.Logger
	sources map[string]*source
	reload  chan struct{}
	current *Snapshot                    // latest that loaded
	good    map[string]map[string]string // local files as they were when they could last be read

	mu       sync.Mutex
	dir      string // the config directory, once the disks are known
	writes   int    // of local files, by WriteLocal
	platform *Snapshot
	fault    error            // of the last load
	faults   map[string]error // of files that need not load, by name
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
	BindAddrs      []string      `prop:"org.lockss.bindAddrs" default:""`
}

// Params gives a struct whose tags are the parameters that this package reads.
func Params() any { return &params{} }

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
		good: map[string]map[string]string{}, platform: NewSnapshot(nil, "")}, nil
}

// Load reads every source and merges them. A source that must load and does not gives an
// error that names it; the last good configuration stays.
func (l *Loader) Load(ctx context.Context) (*Snapshot, error) {
	faults := map[string]error{}
	s, err := l.load(ctx, faults)
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, f := range faults {
		if old := l.faults[name]; old == nil || old.Error() != f.Error() {
			l.log.Warn("configuration file skipped, in whole or in part", "file", name, "err", f)
		}
	}
	l.fault = err
	if err == nil {
		l.faults, l.current = faults, s
	}
	return s, err
}

// Fault tells what of the configuration files is not in force, nil if all is: why the last
// load failed, and faults of files that need not load.
func (l *Loader) Fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := []error{l.fault}
	for _, name := range slices.Sorted(maps.Keys(l.faults)) {
		errs = append(errs, l.faults[name])
	}
	return errors.Join(errs...)
}

// Platform gives the parameters of the platform files alone (config.md 3), which are read
// first: they are there even when the rest does not load.
func (l *Loader) Platform() *Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.platform
}

func (l *Loader) load(ctx context.Context, faults map[string]error) (*Snapshot, error) {
	s := NewSnapshot(nil, "")
	groups := strings.Join(l.opt.Groups, ";")
	s.set("org.lockss.daemon.groups", cmp.Or(groups, "nogroup"), "command line")

	platform := NewSnapshot(nil, "")
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
	l.mu.Lock()
	l.platform = platform
	l.mu.Unlock()
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
			name = resolve(name, from)
			if err := l.optional(ctx, client, s, name, facts, list.titleOnly); err != nil {
				faults[name] = err
			}
		}
	}
	l.local(s, p, faults)
	derive(s)
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
func (l *Loader) optional(ctx context.Context, c *http.Client, s *Snapshot, name string, facts Facts, titleOnly bool) error {
	m, err := l.read(ctx, c, name, facts, "")
	if err != nil {
		return err
	}
	for k := range m {
		if titleOnly && !strings.HasPrefix(k, "org.lockss.title.") && !strings.HasPrefix(k, "org.lockss.titleSet.") {
			return fmt.Errorf("%s: %s is not a title key; a title list may hold nothing else", name, k)
		}
	}
	s.merge(m, name)
	return nil
}

// local merges the files of the config directory. One that cannot be read stays as it was:
// half of au.txt must not drop the other half of the collections.
func (l *Loader) local(s *Snapshot, p params, faults map[string]error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, err := configDir(p)
	if err != nil {
		faults["config directory"] = err
	}
	l.dir, s.writes = dir, l.writes
	if dir == "" {
		return
	}
	for _, f := range localFiles {
		path := filepath.Join(dir, f)
		m, err := readLocal(path)
		if err != nil {
			faults[path] = err
			m = l.good[path]
		}
		l.good[path] = m
		s.files[f] = m
		if f == "expert_config.txt" {
			m = filterExpert(m, p, faults)
		}
		s.merge(m, path)
	}
}

// readLocal reads a local file; one that is not there is empty.
func readLocal(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var m map[string]string
	if err == nil {
		m, err = javaprops.Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// configDir finds the config directory on any disk, else makes it on the first. A disk that is
// not mounted is not made up: there is no config directory then.
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
	first := p.DiskPaths[0]
	dir := filepath.Join(first, p.FilePath)
	err := os.Mkdir(first, 0o755)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("no config directory: check that the disk is mounted: %w", err)
	}
	return dir, nil
}

// filterExpert drops the keys that expert configuration may not set (config.md 4.5).
func filterExpert(m map[string]string, p params, faults map[string]error) map[string]string {
	allow, err := compileAll(p.ExpertAllow)
	deny, err2 := compileAll(p.ExpertDeny)
	if err := errors.Join(err, err2); err != nil {
		faults["expert_config.txt"] = err
		return nil
	}
	kept := map[string]string{}
	for k, v := range m {
		if matchAny(allow, k) || (!matchAny(deny, k) && (len(deny) > 0 || len(allow) == 0)) {
			kept[k] = v
		} else {
			faults["expert_config.txt "+k] = fmt.Errorf("%s may not be set in the expert configuration", k)
		}
	}
	return kept
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
	if bind, ok := s.values["org.lockss.bindAddrs"]; ok {
		for _, name := range []string{"org.lockss.ui.bindAddrs", "org.lockss.proxy.audit.bindAddrs"} {
			if _, set := s.values[name]; !set {
				s.set(name, bind, "org.lockss.bindAddrs")
			}
		}
	}
}

// Dir is the config directory; "" before the first Load or without the disk for it.
func (l *Loader) Dir() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dir
}

// ReadLocal reads one of the box's own files, so that it can be changed and written back. A
// file that is there and cannot be read is an error: it must not be replaced.
func (l *Loader) ReadLocal(file string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == "" {
		return nil, fmt.Errorf("%s not read: there is no config directory", file)
	}
	return readLocal(filepath.Join(l.dir, file))
}

// WriteLocal replaces one of the box's own files whole, durably, in 1.x form (config.md
// 4.2), and asks for a reload.
func (l *Loader) WriteLocal(file, comment string, props map[string]string) error {
	all := maps.Clone(props)
	if all == nil {
		all = map[string]string{}
	}
	all["org.lockss.config.fileVersion."+strings.TrimSuffix(file, filepath.Ext(file))] = "1"
	text := javaprops.Append(nil, []string{comment, time.Now().UTC().Format("Mon Jan 02 15:04:05 UTC 2006")}, all)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.replace(file, text); err != nil {
		return err
	}
	l.writes++
	select {
	case l.reload <- struct{}{}:
	default:
	}
	return nil
}

// Latest tells whether no local file was written by WriteLocal since s was loaded. A reload
// is on its way otherwise.
func (l *Loader) Latest(s *Snapshot) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.writes == l.writes
}

// Keep writes a file of another kind into the config directory, durably; Kept reads it.
func (l *Loader) Keep(file string, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replace(file, b)
}

// Kept reads a file that Keep wrote.
func (l *Loader) Kept(file string) ([]byte, error) {
	dir := l.Dir()
	if dir == "" {
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(filepath.Join(dir, file))
}

// replace writes a file of the config directory; the lock is held.
func (l *Loader) replace(file string, b []byte) error {
	if l.dir == "" {
		return fmt.Errorf("%s not written: there is no config directory", file)
	}
	return replaceFile(filepath.Join(l.dir, file), b)
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
// configuration that differs from the one that was taken before. changed tells whether it
// took it; one that it did not, because it was no longer the Latest, comes again with the
// next reload. Run returns when ctx ends.
func (l *Loader) Run(ctx context.Context, changed func(*Snapshot) bool) error {
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
	taken := l.current
	for {
		if err := l.wait(ctx, w); err != nil {
			return err
		}
		s, err := l.Load(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			l.log.Error("configuration not reloaded; the last one stays in force", "err", err)
		case !s.Equal(taken) && changed(s):
			taken = s
		}
	}
}

// quiet is how long a changed file must be left alone before it is read: editors write in
// several steps.
const quiet = 100 * time.Millisecond

// wait returns when it is time for a reload.
func (l *Loader) wait(ctx context.Context, w *fsnotify.Watcher) error {
	var p params
	if l.current != nil {
		l.current.Fill(&p)
	}
	interval := cmp.Or(p.ReloadInterval, 30*time.Minute)
	timer := time.NewTimer(interval*3/4 + rand.N(interval/2+1))
	defer timer.Stop()
	for changing := false; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return nil
		case <-l.reload:
			return nil
		case ev := <-w.Events:
			if l.concerns(ev.Name) && !changing {
				changing = true
				timer.Reset(quiet)
			}
		case err := <-w.Errors: // a change may have been missed
			l.log.Warn("watch configuration files", "err", err)
			return nil
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
