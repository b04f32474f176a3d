package plugin

import (
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// RegistryPluginID is the plugin of all registry AUs.
const RegistryPluginID = "org.lockss.plugin.RegistryPlugin"

// RegistryAU is the AU of a plugin registry (plugin-packaging.md 4.2): its page and every
// archive it links to, on any host, all requested again in every crawl.
func RegistryAU(url string) *AU {
	base := Param{Key: "base_url", Display: "Base URL", Type: TypeURL, Definitional: true}
	m := &mapping{}
	m.set("plugin_identifier", RegistryPluginID)
	m.set("plugin_name", "Registry")
	m.set("plugin_version", "1")
	d := &Definition{id: RegistryPluginID, chain: []string{RegistryPluginID}, m: m, params: []Param{base}, required: "0.0.0"}
	d.results = resultList{emptyFile: {Class: "WarningOnly"}}
	au := &AU{
		def:          d,
		id:           lockss.NewAUID(RegistryPluginID, map[string]string{"base_url": url}),
		name:         "Plugin registry at '" + url + "'",
		params:       map[string]string{"base_url": url},
		values:       map[string]any{"base_url": url},
		start:        []string{url},
		permission:   []string{url},
		includeStart: true,
		depth:        1000,
		interval:     24 * time.Hour,
		pause:        DefaultPause,
		rates:        Rates{Rate: lockss.Rate{Events: 20, Per: 10 * time.Second}},
		results:      d.results,
		registry:     true,
	}
	derive(base, url, au.values)
	au.match = func(u string) Verdict {
		if strings.EqualFold(u, url) || strings.HasSuffix(strings.ToLower(u), ".jar") {
			return Included
		}
		return Excluded
	}
	au.findStems(nil)
	return au
}
