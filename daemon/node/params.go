package node

import (
	"fmt"
	"maps"

	"armarium/daemon/account"
	"armarium/daemon/au"
	"armarium/daemon/config"
	"armarium/daemon/crawl"
	"armarium/daemon/hasher"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
	"armarium/daemon/poll"
	"armarium/daemon/serve"
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
	"org.lockss.platform.", "org.lockss.cache.location", "org.lockss.mail.", "org.lockss.log.",
	"org.lockss.config.serverAuthKeystore", "org.lockss.proxy.port", // written into every platform file
}

// known gives every parameter that some service reads, with its default.
func known() map[string]string {
	m := config.Known()
	maps.Copy(m, config.Names(Params{}, PluginParams{}, Access{}, Space{}, UI{}, serve.Config{}, store.Config{}, au.Config{}, peer.Params{},
		hasher.Config{}, crawl.Config{}, transport.Config{}, poll.Params{}, account.Config{}))
	m["org.lockss.plugin.load.timeout"] = "1m"
	return m
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

// Space says when a disk is shown as low or full (config.md 8.2): when either bound is
// crossed.
type Space struct {
	LowMB       int64   `prop:"org.lockss.repository.diskSpace.warn.freeMB" default:"5000"`
	LowPercent  float64 `prop:"org.lockss.repository.diskSpace.warn.freePercent" default:"0.02"`
	FullMB      int64   `prop:"org.lockss.repository.diskSpace.full.freeMB" default:"100"`
	FullPercent float64 `prop:"org.lockss.repository.diskSpace.full.freePercent" default:"0.01"`
}
