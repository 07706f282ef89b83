# What of nixpkgs' library the flake uses, written anew.
let
  inherit (builtins)
    attrNames
    attrValues
    concatLists
    concatStringsSep
    elem
    filter
    head
    isAttrs
    isFunction
    isList
    listToAttrs
    map
    stringLength
    substring
    tail
    ;

  lib = builtins // {
    id = value: value;
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: values: if condition then values else { };
    optionalString = condition: text: if condition then text else "";
    nameValuePair = name: value: { inherit name value; };
    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs =
      f: set:
      listToAttrs (
        map (name: {
          inherit name;
          value = set.${name};
        }) (filter (name: f name set.${name}) (attrNames set))
      );
    getAttr = name: set: set.${name};
    unique = builtins.foldl' (found: each: if elem each found then found else found ++ [ each ]) [ ];
    subtractLists = taken: filter (each: !elem each taken);
    concatStrings = concatStringsSep "";
    concatMapStrings = f: values: concatStringsSep "" (map f values);
    concatMapStringsSep =
      separator: f: values:
      concatStringsSep separator (map f values);
    concatLines = values: concatStringsSep "" (map (each: each + "\n") values);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    splitString =
      separator: text: filter builtins.isString (builtins.split (lib.escapeRegex separator) text);
    escapeRegex =
      let
        special = [
          "\\"
          "."
          "+"
          "*"
          "?"
          "("
          ")"
          "["
          "]"
          "{"
          "}"
          "^"
          "$"
          "|"
        ];
      in
      builtins.replaceStrings special (map (each: "\\${each}") special);
    escapeShellArg = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    importJSON = path: builtins.fromJSON (builtins.readFile path);
    getExe = package: "${package}/bin/${package.meta.mainProgram or package.name}";
    getExe' = package: name: "${package}/bin/${name}";
    makeBinPath = lib.makeSearchPath "bin";
    makeLibraryPath = lib.makeSearchPath "lib";
    makeSearchPath = folder: packages: concatStringsSep ":" (map (each: "${each}/${folder}") packages);
    setPrio =
      priority: package:
      package
      // {
        meta = (package.meta or { }) // {
          inherit priority;
        };
      };
    lowPrio = lib.setPrio 10;
    hiPrio = lib.setPrio (-10);
    licenses = lib.genAttrs [
      "gpl3Plus"
      "mit"
      "unfree"
    ] lib.id;
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    trivial.release = "26.11";

    # Files, by the beginnings of their paths.
    fileset =
      let
        coerced =
          given:
          if isAttrs given then
            given
          else
            {
              with_ = [ (toString given) ];
              without = [ ];
            };
        isUnder = path: top: path == top || lib.hasPrefix "${top}/" path;
      in
      rec {
        unions = given: {
          with_ = concatLists (map (each: (coerced each).with_) given);
          without = concatLists (map (each: (coerced each).without) given);
        };
        union =
          one: other:
          unions [
            one
            other
          ];
        difference = one: other: {
          inherit (coerced one) with_;
          without = (coerced one).without ++ (coerced other).with_;
        };
        maybeMissing =
          path:
          if builtins.pathExists path then
            coerced path
          else
            {
              with_ = [ ];
              without = [ ];
            };
        toSource =
          { root, fileset }:
          let
            inherit (coerced fileset) with_ without;
          in
          assert builtins.all (path: builtins.pathExists path) with_;
          builtins.path {
            path = root;
            name = "source";
            filter =
              path: type:
              !builtins.any (isUnder path) without
              && builtins.any (top: isUnder path top || (type == "directory" && isUnder top path)) with_;
          };
      };

    # The functions that modules are written with.
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;

    # A function's arguments that are not given come from a set, and `override` gives others.
    callPackageWith =
      given: function: arguments:
      let
        f = if isFunction function then function else import function;
        made = f (builtins.intersectAttrs (builtins.functionArgs f) given // arguments);
      in
      made
      // {
        override =
          more: lib.callPackageWith given f (arguments // (if isFunction more then more arguments else more));
      };
  };
in
lib
