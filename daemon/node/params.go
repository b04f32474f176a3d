package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/au"
	"armarium/daemon/config"
	"armarium/daemon/crawl"
	"armarium/daemon/hasher"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
	"armarium/daemon/poll"
	"armarium/daemon/serve"
	"armarium/daemon/status"
	"armarium/daemon/store"
	"armarium/daemon/transport"
)

// Params are the parameters that the node itself reads.
type Params struct {
	Groups       []string `prop:"org.lockss.daemon.groups" default:"nogroup"`
	Disks        []string `prop:"org.lockss.platform.diskSpacePaths" default:""`
	Identity     string   `prop:"org.lockss.localV3Identity" default:""`
	LocalIP      string   `prop:"org.lockss.localIPAddress" default:""`
	LocalPort    int      `prop:"org.lockss.localV3Port" default:"0"`
	Comm         bool     `prop:"org.lockss.scomm.enabled" default:"true"`
	AddressMap   []string `prop:"org.lockss.id.peerAddressMap" default:""` // "identity,identity2" each
	KeepAlive    bool     `prop:"org.lockss.scomm.socketKeepAlive" default:"true"`
	AbortUnknown bool     `prop:"org.lockss.scomm.abortOnUnknownOp" default:"true"`
	TLSPeers     bool     `prop:"org.lockss.scomm.v3OverSsl" default:"false"`

	UIStart bool   `prop:"org.lockss.ui.start" default:"true"`
	UIPort  int    `prop:"org.lockss.ui.port" default:"8081"`
	Host    string `prop:"org.lockss.platform.fqdn" default:""`
	Version string `prop:"org.lockss.platform.version" default:""`
}

// identity of the node (lcap-v3.md 1.2); an error when none is configured.
func (p Params) identity() (lockss.PeerID, error) {
	text := p.Identity
	if text == "" {
		text = fmt.Sprintf("TCP:[%s]:%d", p.LocalIP, p.LocalPort)
	}
	return lockss.ParsePeerID(text)
}

// passed lists parameters that are known but read by other parts of a box or only by the
// classic daemon, so that they are not reported as unknown.
var passed = []string{
	"org.lockss.title.", "org.lockss.titleSet.", "org.lockss.au.", "org.lockss.config.fileVersion.",
	"org.lockss.platform.", "org.lockss.cache.location", "org.lockss.mail.", "org.lockss.log.", usersPrefix, "org.lockss.ui.debugUser.",
	"org.lockss.config.serverAuthKeystore", "org.lockss.proxy.port", // written into every platform file
}

// settings are all structs that are filled from the configuration: those that take effect
// while the node runs, and those that are read once, at the start.
func settings() (live, fixed []any) {
	return []any{config.Params(), &PluginParams{}, &Access{}, &Space{}, &peer.Params{}, &poll.Params{}, &auParams{}},
		[]any{&Params{}, &UI{}, &serve.Config{}, &store.Config{}, &au.Config{}, &hasher.Config{}, &crawl.Config{},
			&transport.Config{}, &account.Config{}, &loadParams{}}
}

// known gives every parameter that some service reads, with its default.
func known() map[string]string {
	live, fixed := settings()
	return config.Names(append(live, fixed...)...)
}

// problems lists what cannot be used of a configuration.
func problems(s *config.Snapshot) []config.Problem {
	live, fixed := settings()
	var all []config.Problem
	for _, v := range append(live, fixed...) {
		for _, p := range s.Fill(v) {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// waiting lists the parameters of s that differ from those with which the node was started
// and are read only then.
func waiting(started, s *config.Snapshot) []string {
	_, fixed := settings()
	names := config.Names(fixed...)
	for name := range config.Names(Access{}) { // the proxy's list is set anew
		delete(names, name)
	}
	return slices.DeleteFunc(s.Changed(started), func(name string) bool { _, ok := names[name]; return !ok })
}

// usersPrefix is of the accounts that a network has on all its boxes (admin.md 2.2):
// <id>.user, <id>.password (a hash) and <id>.roles.
const usersPrefix = "org.lockss.ui.users."

// users lists who may log in: the administrator of the platform file, then the accounts of
// the network, if there are any.
func users(s *config.Snapshot) []account.User {
	get := func(name string) string { v, _ := s.Get(name); return v }
	var list []account.User
	if name, hash := get("org.lockss.platform.ui.username"), get("org.lockss.platform.ui.password"); name != "" && hash != "" {
		list = append(list, account.User{Name: name, Password: hash, Roles: []string{account.RoleUserAdmin}})
	}
	for _, key := range slices.Sorted(maps.Keys(s.Under(usersPrefix))) {
		if id, ok := strings.CutSuffix(key, ".user"); ok && get(key) != "" {
			list = append(list, account.User{Name: get(key), Password: get(id + ".password"), Roles: account.SplitRoles(get(id + ".roles"))})
		}
	}
	return list
}

// auParams say where collections may be configured beside au.txt (titledb.md 3).
type auParams struct {
	Anywhere bool `prop:"org.lockss.plugin.allowGlobalAuConfig" default:"false"` // in every file, for tests
}

// loadParams say how long the start waits for plugins.
type loadParams struct {
	Timeout time.Duration `prop:"org.lockss.plugin.load.timeout" default:"1m"`
}

// Access lists who may come in; account.Filter says in which forms.
type Access struct {
	UIInclude    []string `prop:"org.lockss.ui.access.ip.include" default:""`
	UIExclude    []string `prop:"org.lockss.ui.access.ip.exclude" default:""`
	UIPlatform   string   `prop:"org.lockss.ui.access.ip.platformAccess" default:""`
	ReadInclude  []string `prop:"org.lockss.proxy.access.ip.include" default:""`
	ReadExclude  []string `prop:"org.lockss.proxy.access.ip.exclude" default:""`
	ReadPlatform string   `prop:"org.lockss.proxy.access.ip.platformAccess" default:""`
}

// Space says when a disk is low or full (config.md 8.2): when either bound is crossed.
type Space struct {
	LowMB       int64   `prop:"org.lockss.repository.diskSpace.warn.freeMB" default:"5000"`
	LowPercent  float64 `prop:"org.lockss.repository.diskSpace.warn.freePercent" default:"0.02"`
	FullMB      int64   `prop:"org.lockss.repository.diskSpace.full.freeMB" default:"100"`
	FullPercent float64 `prop:"org.lockss.repository.diskSpace.full.freePercent" default:"0.01"`
}

// level of free space on a disk, "" when there is enough.
func (s Space) level(free, total uint64) string {
	below := func(mb int64, share float64) bool {
		if share > 1 { // 1.x writes 2 for 2 %
			share /= 100
		}
		return free < uint64(max(0, mb))<<20 || float64(free) < share*float64(total)
	}
	switch {
	case below(s.FullMB, s.FullPercent):
		return status.DiskFull
	case below(s.LowMB, s.LowPercent):
		return status.DiskLow
	}
	return ""
}
