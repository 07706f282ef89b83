# nixpkgs has none.
{
  lib,
  buildPythonPackage,
  fetchPypi,
  flit-core,
  apispec,
  flask,
  marshmallow,
  webargs,
  werkzeug,
}:
buildPythonPackage rec {
  pname = "flask-smorest";
  version = "0.47.0";
  pyproject = true;

  src = fetchPypi {
    pname = "flask_smorest";
    inherit version;
    hash = "sha256-pBXOfbPX5j3YVOsW1ZBHaG2/XTHEkT4kX6Vlf4jneI0=";
  };

  build-system = [ flit-core ];
  dependencies = [
    apispec
    flask
    marshmallow
    webargs
    werkzeug
  ];
  # They are not in the sdist.
  doCheck = false;
  pythonImportsCheck = [ "flask_smorest" ];

  meta = {
    description = "REST API framework based on Flask and marshmallow";
    homepage = "https://flask-smorest.readthedocs.io";
    license = lib.licenses.mit;
  };
}
