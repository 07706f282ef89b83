# As much of NixOS as a toolchain is made from: modules put together, a folder of programs, a folder /etc, a kernel.
{
  lib,
  pkgs,
  modules,
}:
let
  inherit (builtins)
    all
    concatLists
    isAttrs
    isFunction
    isList
    isPath
    isString
    ;

  normal =
    module:
    let
      read = if isPath module || isString module then import module else module;
      called = if isFunction read then read arguments else read;
    in
    concatLists (map normal (called.imports or [ ]))
    ++ [
      (called.config or (removeAttrs called [
        "_file"
        "imports"
        "key"
        "options"
      ])
      )
    ];

  # A value with its priority; the lowest goes before.
  definitions =
    value:
    if value._type or null == "if" then
      if value.condition then definitions value.content else [ ]
    else if value._type or null == "override" then
      map (each: each // { inherit (value) priority; }) (definitions value.content)
    else
      [
        {
          inherit value;
          priority = 100;
        }
      ];
  merged =
    values:
    let
      found = concatLists (map definitions values);
      best = builtins.foldl' (
        least: each: if each.priority < least then each.priority else least
      ) 10000 found;
      kept = map (each: each.value) (builtins.filter (each: each.priority == best) found);
      isPlain = value: isAttrs value && value.type or null != "derivation";
    in
    if all isPlain kept then
      builtins.zipAttrsWith (_: merged) kept
    else if all isList kept then
      concatLists kept
    else
      builtins.elemAt kept (builtins.length kept - 1);

  file =
    name: given:
    {
      enable = true;
      target = name;
      source = builtins.toFile (baseNameOf name) given.text;
    }
    // given;

  base = {
    environment = {
      systemPackages = [ ];
      etc = { };
    };
    boot.kernelPackages.kernel = lib.mkDefault pkgs.linux;
    system.boot.loader.kernelFile = "bzImage";
  };
  said = merged ([ base ] ++ concatLists (map normal modules));
  etc = builtins.mapAttrs file said.environment.etc;
  config = said // {
    environment = said.environment // {
      inherit etc;
    };
    system = said.system // {
      path = pkgs.buildEnv {
        name = "system-path";
        paths = said.environment.systemPackages;
      };
      build.etc = pkgs.runCommand "etc" { } (
        lib.concatMapStrings (each: ''
          mkdir -p $out/etc/$(dirname ${each.target})
          ln -s ${each.source} $out/etc/${each.target}
        '') (builtins.filter (each: each.enable) (builtins.attrValues etc))
      );
    };
  };
  arguments = {
    inherit config lib pkgs;
    modulesPath = toString ./.;
    options = { };
  };
in
{
  inherit config;
}
